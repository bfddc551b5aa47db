package topology

import (
	"net/netip"
	"slices"
)

// A Grant is a pod subnet with the Node that it was granted to, in a form that outlives the agent.
type Grant struct {
	Subnet    netip.Prefix
	Node, UID string
	Addr, Via netip.Addr // the InternalIP that counted, and the next hop
	HadRoute  bool       // there was a route since the subnet was granted
}

// Grants returns the grants of a State that Desired has returned.
func (s State) Grants() []Grant {
	all := make([]Grant, 0, len(s.granted))
	for _, c := range s.granted {
		all = append(all, Grant{c.subnet, c.node.Name, c.node.UID, c.addr, c.via, c.hadRoute})
	}
	return all
}

// Granting returns the actual State with the grants of an earlier run. Those to Nodes that are gone,
// or that are others of the same name, have no effect (grantOf).
func (s State) Granting(grants []Grant) State {
	s.granted = make([]*claim, 0, len(grants))
	for _, g := range grants {
		node := &Node{Name: g.Node, UID: g.UID}
		s.granted = append(s.granted, &claim{subnet: g.Subnet, node: node, reach: reach{addr: g.Addr, via: g.Via}, hadRoute: g.HadRoute})
	}
	slices.SortFunc(s.granted, compareClaims)
	return s
}
