package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/topology"
)

// peer is another Node as this one reaches it.
type peer struct {
	name string
	// hops are where its pods' packets are sent to, one a family.
	hops    []netip.Addr
	subnets []netip.Prefix
	// away tells that the API server calls the Node not ready.
	away bool
}

// gateway is the address of the peer's bridge in one of its subnets: its node answers
// for it, even while no pod is there and nobody has that address.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Addr().Next() }

// peers are the other Nodes that are machines, as the API server or else the agent has them; their next
// hops are those of the routes in the kernel, where there are any.
func (p *Patient) peers() []peer {
	hops := map[netip.Prefix]netip.Addr{}
	for _, r := range p.State.Routes {
		if r.Type == topology.Unicast && r.Via.IsValid() {
			hops[r.Dst] = r.Via
		}
	}
	if p.Nodes != nil {
		return p.peersOfNodes(hops)
	}
	return p.peersOfReport(hops)
}

func (p *Patient) peersOfNodes(hops map[netip.Prefix]netip.Addr) []peer {
	var all []peer
	for i := range p.Nodes {
		if p.isOwn(&p.Nodes[i]) || virtual(&p.Nodes[i]) {
			continue
		}
		n := topology.NodeFrom(&p.Nodes[i])
		one := peer{name: n.Name, subnets: n.PodCIDRs, away: !ready(&p.Nodes[i])}
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

func (p *Patient) peersOfReport(hops map[netip.Prefix]netip.Addr) []peer {
	if p.Report == nil {
		return nil
	}
	var all []peer
	at := map[string]int{}
	for _, row := range p.Report.Peers {
		i, known := at[row.Node]
		if !known {
			i = len(all)
			at[row.Node] = i
			all = append(all, peer{name: row.Node})
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

// hop is where packets for a subnet of the peer go.
func (one *peer) hop(subnet netip.Prefix) (netip.Addr, bool) {
	for _, h := range one.hops {
		if h.Is4() == subnet.Addr().Is4() {
			return h, true
		}
	}
	return netip.Addr{}, false
}

// isOwn tells our own Node by its name, or else by its addresses.
func (p *Patient) isOwn(n *corev1.Node) bool {
	if p.Node != "" {
		return n.Name == p.Node
	}
	if p.Report != nil {
		return n.Name == p.Report.Node
	}
	for _, addr := range topology.NodeFrom(n).Addrs {
		for _, link := range p.Host.Links {
			if slices.ContainsFunc(link.Addrs, func(a netip.Prefix) bool { return a.Addr() == addr }) {
				return true
			}
		}
	}
	return false
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true // nobody says otherwise
}

// spread takes at most so many, evenly over all of them; those that are suspect come first.
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
	if len(some) >= limit {
		return some[:limit]
	}
	left := limit - len(some)
	for i := range left {
		some = append(some, rest[i*len(rest)/left])
	}
	return some
}

// named lists the first few of many.
func named(names []string) string {
	const few = 5
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
