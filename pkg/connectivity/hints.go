package connectivity

import (
	"cmp"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// hints returns what the failures have in common, and where to look next.
func (r *Result) hints() string {
	program := cmp.Or(r.Program, "plainroute")
	var lines []string
	if node := r.common(); node != "" && len(r.Nodes) > 2 {
		lines = append(lines, "All failures have "+node+" in common: begin there.")
	}
	if from := r.sources(func(f Failure) bool { return f.Translated }); len(from) > 0 {
		lines = append(lines, "The source addresses of pods of "+strings.Join(from, ", ")+" are translated, usually on their node: nft list ruleset | grep -i masquerade, iptables-save -t nat | grep -i masquerade. "+
			"Delete that rule, or exclude the pods' addresses from it; kube-proxy's --cluster-cidr must contain all of them.")
	}
	pods := r.kindsBetweenPods()
	switch {
	case pods[TCP] && !pods[UDP]:
		lines = append(lines, "Datagrams arrive and TCP does not, so the routes are correct: a firewall drops TCP, on one of the nodes or between them: nft list ruleset, iptables-save.")
	case pods[UDP] && !pods[TCP]:
		lines = append(lines, "TCP arrives and datagrams don't, so the routes are correct: a firewall drops them, on one of the nodes or between them: nft list ruleset, iptables-save.")
	case (pods[MTU] || pods[Large] || pods[Bulk]) && !pods[TCP]:
		lines = append(lines, "Small packets arrive and large ones don't: the MTU of the path is smaller than the pods'. Run "+program+" doctor --cluster, and check the agents' --mtu.")
	}
	if len(pods) == 0 {
		lines = append(lines, r.beyondPods()...)
	}
	return strings.Join(append(lines, "Next: "+program+" status --cluster --problems, and for the nodes above "+program+" doctor --cluster."), "\n")
}

// common returns the one node that all failures have in common, or "".
func (r *Result) common() string {
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

// sources returns the nodes of which some failure is selected.
func (r *Result) sources(selected func(Failure) bool) (from []string) {
	for _, f := range r.Failed {
		if selected(f) && !slices.Contains(from, f.From) {
			from = append(from, f.From)
		}
	}
	return from
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

// beyond has the hints for targets that fail while pods reach each other, causes first.
var beyond = []struct{ target, hint string }{
	{Services, "Pods reach each other, but not by a Service: check kube-proxy on these nodes."},
	{Names, "Pods reach each other, but names are not resolved: check the cluster's DNS: kubectl -n kube-system get pods,endpointslices -l k8s-app=kube-dns -o wide."},
	{Nodes, "Pods reach each other, but not a node's own address: a firewall on that node drops packets from pods."},
	{Outside, "Pods reach each other, but not hosts outside: check that the nodes reach them, and that the agent masquerades (--masquerade)."},
}

// beyondPods returns the hints beyond pods. DNS is a Service: it counts where another is reached.
func (r *Result) beyondPods() (lines []string) {
	noService := r.failing(Services)
	for _, b := range beyond {
		from := r.failing(b.target)
		if b.target == Names {
			from = slices.DeleteFunc(from, func(node string) bool { return slices.Contains(noService, node) })
		}
		if len(from) > 0 {
			lines = append(lines, b.hint)
		}
	}
	return lines
}

// failing returns the nodes whose pods don't reach targets of a sort.
func (r *Result) failing(sort string) []string {
	return r.sources(func(f Failure) bool {
		target, node, _ := strings.Cut(f.Target, " ")
		return target == sort && !f.Translated && !r.away(node)
	})
}

// away reports whether a node could not take part.
func (r *Result) away(node string) bool {
	return slices.ContainsFunc(r.Absent, func(a problem.Problem) bool { return a.Node == node })
}
