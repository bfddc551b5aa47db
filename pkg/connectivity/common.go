package connectivity

import (
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// inCommon returns a Problem for each thing that the failures have in common, causes first.
func (r *Result) inCommon() []problem.Problem {
	var list []problem.Problem
	found := func(reason problem.Reason, format string, args ...any) {
		list = append(list, problem.New(reason, problem.Subject{}, format, args...))
	}
	if node := r.commonNode(); node != "" && len(r.Nodes) > 2 {
		found(problem.CommonNode, "all failures have %s in common", node)
	}
	pods := r.kindsBetweenPods()
	switch {
	case pods[TCP] && !pods[UDP]:
		found(problem.TCPDropped, "datagrams arrive and TCP does not, so the routes are correct")
	case pods[UDP] && !pods[TCP]:
		found(problem.DatagramsDropped, "TCP arrives and datagrams don't, so the routes are correct")
	case (pods[MTU] || pods[Large] || pods[Bulk]) && !pods[TCP]:
		found(problem.LargeDropped, "small packets arrive and large ones don't")
	}
	if len(pods) > 0 {
		return list
	}
	noService := r.failing(Services)
	for _, b := range beyondPods {
		from := r.failing(b.target)
		if b.target == Names { // DNS is a Service: it counts where another is reached
			from = slices.DeleteFunc(from, func(node string) bool { return slices.Contains(noService, node) })
		}
		if len(from) > 0 {
			found(b.reason, "pods reach each other, but not %s", b.what)
		}
	}
	return list
}

// beyondPods are the targets that may fail while pods reach each other.
var beyondPods = []struct {
	target string
	reason problem.Reason
	what   string
}{
	{Services, problem.ServiceUnreached, "by a Service"},
	{Names, problem.NamesUnresolved, "by names, which are not resolved"},
	{Nodes, problem.NodeUnreached, "a node's own address"},
	{Outside, problem.OutsideUnreached, "hosts outside"},
}

// commonNode returns the one node that all failures have in common, or "".
func (r *Result) commonNode() string {
	ends := func(f Failure) []string { return []string{f.From, strings.TrimPrefix(f.Target, Nodes+" ")} }
	var all []string
	for i, f := range r.Failed {
		if i == 0 {
			all = ends(f)
		}
		all = slices.DeleteFunc(all, func(node string) bool { return !slices.Contains(ends(f), node) })
	}
	all = slices.Compact(slices.DeleteFunc(all, func(node string) bool { return !slices.Contains(r.Nodes, node) }))
	if len(all) != 1 {
		return ""
	}
	return all[0]
}

// kindsBetweenPods returns the kinds of probes that failed between pods.
func (r *Result) kindsBetweenPods() map[Kind]bool {
	kinds := map[Kind]bool{}
	for _, f := range r.Failed {
		if slices.Contains(r.Nodes, f.Target) && !f.Translated {
			kinds[f.Kind] = true
		}
	}
	return kinds
}

// failing returns the nodes whose pods don't reach targets of a sort, without nodes that could not take
// part.
func (r *Result) failing(sort string) []string {
	var from []string
	for _, f := range r.Failed {
		target, node, _ := strings.Cut(f.Target, " ")
		absent := slices.ContainsFunc(r.Absent, func(a problem.Problem) bool { return a.Node == node })
		if target == sort && !f.Translated && !absent {
			from = append(from, f.From)
		}
	}
	return from
}
