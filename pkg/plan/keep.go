package plan

import (
	"net/netip"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A keeper is an Object that somebody else could take away while its deletion is held back: a route, an
// address, and elements of the sets.
type keeper interface{ keep(*topology.State) }

// Removed is what WithoutRemovals keeps, as far as it has to be desired meanwhile.
func (c Changes) Removed() topology.State {
	var kept topology.State
	for _, x := range c {
		if o, ok := x.Object.(keeper); ok && x.Op == Delete {
			o.keep(&kept)
		}
	}
	return kept
}

// Joined is a State and of another what it lacks. Where both have something of one
// key, it is the former's. A table that is not there, or has no sets, gets none.
func Joined(s, kept topology.State) topology.State {
	if len(kept.Routes) > 0 {
		s.Routes = union(s.Routes, kept.Routes, topology.Route.Compare)
	}
	if len(kept.Addresses) > 0 {
		s.Addresses = union(s.Addresses, kept.Addresses, topology.Address.Compare)
	}
	if k := kept.Masquerade; k != nil && s.Masquerade != nil && len(s.Masquerade.Sources) > 0 && len(k.Cluster)+len(k.Nodes) > 0 {
		m := *s.Masquerade
		m.Cluster = topology.Outermost(union(m.Cluster, k.Cluster, topology.ComparePrefix))
		m.Nodes = union(m.Nodes, k.Nodes, netip.Addr.Compare)
		s.Masquerade = &m
	}
	return s
}
