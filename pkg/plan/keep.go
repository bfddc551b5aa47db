package plan

import (
	"net/netip"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Removed is what WithoutRemovals keeps, as far as somebody else could take it away
// while it is kept: routes, addresses, and elements of the sets.
func (c Changes) Removed() topology.State {
	return topology.State{
		Routes: c.Delete, Addresses: c.DeleteAddresses,
		Masquerade: &topology.Masquerade{Cluster: c.Narrow.DeleteCluster, Nodes: c.Narrow.DeleteNodes},
	}
}

// With is a State and of another what it lacks. Where both have something of one
// key, it is the former's. A table that is not there, or has no sets, gets none.
func With(s, kept topology.State) topology.State {
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
