package check

import (
	"slices"
	"strings"
)

// advice says what the faults have in common, and where to look next.
func (r *Result) advice() string {
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
		lines = append(lines, "Small packets arrive and large ones don't: the MTU on the way is smaller than the pods'. plainroute doctor on these nodes, and --mtu.")
	}
	if len(pods) == 0 {
		lines = append(lines, r.beyondPods()...)
	}
	return strings.Join(append(lines, "Next: plainroute status --cluster --problems, and on the nodes above plainroute doctor."), "\n")
}

// common is the one node without which nothing failed, or nothing.
func (r *Result) common() string {
	ends := func(f Fault) []string { return []string{f.From, strings.TrimPrefix(f.Target, Nodes+" ")} }
	var all []string
	for i, f := range r.Faults {
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
	for _, f := range r.Faults {
		if f.Translated && !slices.Contains(from, f.From) {
			from = append(from, f.From)
		}
	}
	return from
}

// kindsBetweenPods are what got lost between pods.
func (r *Result) kindsBetweenPods() map[Kind]bool {
	kinds := map[Kind]bool{}
	for _, f := range r.Faults {
		if slices.Contains(r.Nodes, f.Target) && !f.Translated {
			kinds[f.Kind] = true
		}
	}
	return kinds
}

// beyondPods says what to look at where pods reach each other, and not the rest.
func (r *Result) beyondPods() (lines []string) {
	said := map[string]bool{}
	for _, f := range r.Faults {
		target, node, _ := strings.Cut(f.Target, " ")
		if said[target] || f.Translated || r.away(node) {
			continue
		}
		said[target] = true
		switch target {
		case Names:
			lines = append(lines, "Pods reach each other, and names are not found: look at the cluster's DNS: kubectl -n kube-system get pods,endpointslices -l k8s-app=kube-dns -o wide.")
		case Services:
			lines = append(lines, "Pods reach each other, and not by a Service: look at kube-proxy on these nodes.")
		case Nodes:
			lines = append(lines, "Pods reach each other, and not a node's own address: a firewall on that node drops what pods send to it.")
		case World:
			lines = append(lines, "Pods reach each other, and not the world: do the nodes reach it, and does the agent masquerade (--masquerade)?")
		}
	}
	return lines
}

// away tells that a node could not take part, of which it is told why: that it doesn't answer is no wonder.
func (r *Result) away(node string) bool {
	return slices.ContainsFunc(r.Absent, func(a Absence) bool { return a.Node == node })
}
