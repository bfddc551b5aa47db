package connectivity

import (
	"cmp"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// advice says what the faults have in common, and where to look next.
func (r *Result) advice() string {
	program := cmp.Or(r.Program, "plainroute")
	var lines []string
	if node := r.common(); node != "" && len(r.Nodes) > 2 {
		lines = append(lines, "All that failed has "+node+" in common: begin there.")
	}
	if from := r.translators(); len(from) > 0 {
		lines = append(lines, "Somebody translates what pods of "+strings.Join(from, ", ")+" send, mostly there: nft list ruleset | grep -i masquerade, iptables-save -t nat | grep -i masquerade. "+
			"Take the rule away, or have it leave out the pods' addresses; kube-proxy's --cluster-cidr must hold all of them.")
	}
	pods := r.kindsBetweenPods()
	switch {
	case pods[TCP] && !pods[UDP]:
		lines = append(lines, "Datagrams arrive and TCP does not, so the routes are right: a firewall drops it, on one of the nodes or between them: nft list ruleset, iptables-save.")
	case pods[UDP] && !pods[TCP]:
		lines = append(lines, "TCP arrives and datagrams don't, so the routes are right: a firewall drops them, on one of the nodes or between them: nft list ruleset, iptables-save.")
	case (pods[MTU] || pods[Large] || pods[Bulk]) && !pods[TCP]:
		lines = append(lines, "Small packets arrive and large ones don't: the MTU on the way is smaller than the pods'. "+program+" doctor --cluster, and the agents' --mtu.")
	}
	if len(pods) == 0 {
		lines = append(lines, r.beyondPods()...)
	}
	return strings.Join(append(lines, "Next: "+program+" status --cluster --problems, and of the nodes above "+program+" doctor --cluster."), "\n")
}

// common is the one node without which nothing failed, or nothing.
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

// translators are the nodes whose pods are seen as somebody else.
func (r *Result) translators() (from []string) {
	for _, f := range r.Failed {
		if f.Translated && !slices.Contains(from, f.From) {
			from = append(from, f.From)
		}
	}
	return from
}

// kindsBetweenPods are what got lost between pods.
func (r *Result) kindsBetweenPods() map[Kind]bool {
	kinds := map[Kind]bool{}
	for _, f := range r.Failed {
		if slices.Contains(r.Nodes, f.Target) && !f.Translated {
			kinds[f.Kind] = true
		}
	}
	return kinds
}

// beyond is what to look at where pods reach each other, and not the rest: causes first.
var beyond = []struct{ target, look string }{
	{Services, "Pods reach each other, and not by a Service: look at kube-proxy on these nodes."},
	{Names, "Pods reach each other, and names are not found: look at the cluster's DNS: kubectl -n kube-system get pods,endpointslices -l k8s-app=kube-dns -o wide."},
	{Nodes, "Pods reach each other, and not a node's own address: a firewall on that node drops what pods send to it."},
	{World, "Pods reach each other, and not the world: do the nodes reach it, and does the agent masquerade (--masquerade)?"},
}

// beyondPods says what to look at beyond pods. The cluster's DNS is a Service: what
// fails where no Service is reached is no fault of its own.
func (r *Result) beyondPods() (lines []string) {
	serviceless := r.failing(Services)
	for _, b := range beyond {
		from := r.failing(b.target)
		if b.target == Names {
			from = slices.DeleteFunc(from, func(node string) bool { return slices.Contains(serviceless, node) })
		}
		if len(from) > 0 {
			lines = append(lines, b.look)
		}
	}
	return lines
}

// failing are the nodes whose pods don't reach targets of a sort.
func (r *Result) failing(sort string) (from []string) {
	for _, f := range r.Failed {
		target, node, _ := strings.Cut(f.Target, " ")
		if target == sort && !f.Translated && !r.away(node) && !slices.Contains(from, f.From) {
			from = append(from, f.From)
		}
	}
	return from
}

// away tells that a node could not take part, of which it is told why: that it doesn't answer is no wonder.
func (r *Result) away(node string) bool {
	return slices.ContainsFunc(r.Absent, func(a problem.Problem) bool { return a.Node == node })
}
