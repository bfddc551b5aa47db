package doctor

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A peer is another Node, and how this one reaches it.
type peer struct {
	name    string
	hops    []netip.Addr // the next hops to its pods, one per family
	subnets []netip.Prefix
	away    bool // the Node is not ready
}

// gateway returns the bridge's address in a subnet. Its node answers for it even without a bridge.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Addr().Next() }

// peers returns the other Nodes that are machines, from the API server or else from the agent's
// report. Their next hops are those of the kernel's routes, if there are any.
func (t *Target) peers() []peer {
	hops := map[netip.Prefix]netip.Addr{}
	for _, r := range t.State.Routes {
		if r.Type == topology.Unicast && r.Via.IsValid() {
			hops[r.Dst] = r.Via
		}
	}
	if t.Nodes != nil {
		return t.peersOfNodes(hops)
	}
	return t.peersOfReport(hops)
}

func (t *Target) peersOfNodes(hops map[netip.Prefix]netip.Addr) []peer {
	var all []peer
	for i := range t.Nodes {
		if t.isOwn(&t.Nodes[i]) || virtual(&t.Nodes[i]) {
			continue
		}
		n := topology.NodeFrom(&t.Nodes[i])
		one := peer{name: n.Name, subnets: n.PodCIDRs, away: !ready(&t.Nodes[i])}
		for _, subnet := range n.PodCIDRs {
			hop, routed := hops[subnet]
			if j := slices.IndexFunc(n.Addrs, func(a netip.Addr) bool { return a.Is4() == subnet.Addr().Is4() }); !routed && j >= 0 {
				hop = n.Addrs[j]
			}
			one.addHop(hop)
		}
		all = append(all, one)
	}
	return all
}

func (t *Target) peersOfReport(hops map[netip.Prefix]netip.Addr) []peer {
	if t.Report == nil {
		return nil
	}
	var all []peer
	index := map[string]int{}
	for _, row := range t.Report.Peers {
		i, known := index[row.Node]
		if !known {
			i, all = len(all), append(all, peer{name: row.Node})
			index[row.Node] = i
		}
		hop, routed := hops[row.Subnet]
		if !routed {
			hop = row.Via
		}
		all[i].subnets = append(all[i].subnets, row.Subnet)
		all[i].addHop(hop)
	}
	return all
}

func (one *peer) addHop(hop netip.Addr) {
	if hop.IsValid() && !slices.Contains(one.hops, hop) {
		one.hops = append(one.hops, hop)
	}
}

// hop returns the next hop to a subnet of the peer.
func (one *peer) hop(subnet netip.Prefix) (netip.Addr, bool) {
	i := slices.IndexFunc(one.hops, func(h netip.Addr) bool { return h.Is4() == subnet.Addr().Is4() })
	if i < 0 {
		return netip.Addr{}, false
	}
	return one.hops[i], true
}

// isOwn reports whether a Node is our own, by its name or else by its addresses.
func (t *Target) isOwn(n *corev1.Node) bool {
	if t.Node != "" {
		return n.Name == t.Node
	}
	if t.Report != nil {
		return n.Name == t.Report.Node
	}
	return slices.ContainsFunc(topology.NodeFrom(n).Addrs, t.hasAddr)
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true // unknown
}

// spread returns at most limit elements: the suspect ones first, then evenly spaced ones.
func spread[T any](all []T, limit int, suspect func(T) bool) []T {
	if len(all) <= limit {
		return all
	}
	var some, rest []T
	for _, one := range all {
		if suspect(one) {
			some = append(some, one)
		} else {
			rest = append(rest, one)
		}
	}
	left := max(0, limit-len(some))
	for i := range left {
		some = append(some, rest[i*len(rest)/left])
	}
	return some[:limit]
}
