package plan

import (
	"net/netip"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A keeper is an Object that another program could delete while our own deletion waits: a route, an
// address, and elements of the sets.
type keeper interface{ keep(*topology.State) }

// Removed returns the deleted Objects that are desired until the deletion is confirmed.
func (c Changes) Removed() topology.State {
	var kept topology.State
	for _, x := range c {
		if o, ok := x.Object.(keeper); ok && x.Op == Delete {
			o.keep(&kept)
		}
	}
	return kept
}

// Joined returns a State with what kept has beyond it. If both have an Object of one key, it is
// that of s. A table without sets, or none, gets none.
func Joined(s, kept topology.State) topology.State {
	if len(kept.Routes) > 0 {
		s.Routes = union(s.Routes, kept.Routes, topology.CompareRoutes)
	}
	if len(kept.Tunnels) > 0 {
		s.Tunnels = union(s.Tunnels, kept.Tunnels, topology.Tunnel.Compare)
	}
	if len(kept.Neighbors) > 0 {
		s.Neighbors = union(s.Neighbors, kept.Neighbors, topology.Neighbor.Compare)
	}
	if len(kept.FDB) > 0 {
		s.FDB = union(s.FDB, kept.FDB, topology.FDBEntry.Compare)
	}
	if len(kept.Addresses) > 0 {
		s.Addresses = union(s.Addresses, kept.Addresses, topology.Address.Compare)
	}
	if k := kept.Masquerade; k != nil && s.Masquerade != nil && len(s.Masquerade.Sources)+len(s.Masquerade.Tunnels) > 0 && len(k.Cluster)+len(k.Nodes)+len(k.Endpoints) > 0 {
		m := *s.Masquerade
		m.Cluster = topology.Outermost(union(m.Cluster, k.Cluster, topology.ComparePrefix))
		m.Nodes = union(m.Nodes, k.Nodes, netip.Addr.Compare)
		m.Endpoints = union(m.Endpoints, k.Endpoints, netip.Addr.Compare)
		s.Masquerade = &m
	}
	return s
}
