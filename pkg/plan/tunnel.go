package plan

import (
	"fmt"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Tunnel is a VXLAN device to peers that are not on link. Its key is the name of its family's, so a
// renamed one is replaced.
type Tunnel struct {
	topology.Tunnel
	Was topology.Tunnel // what it replaces; the zero Tunnel in other changes
}

func (t Tunnel) kind() Kind { return KindTunnel }

func (t Tunnel) name() string {
	if t.Local.Is4() {
		return topology.Tunnel4
	}
	return topology.Tunnel6
}

// Recreates reports whether the device is deleted first, with all that is on it.
func (t Tunnel) Recreates() bool { return t.Was.Name != "" && !t.Was.ChangesInPlace(t.Tunnel) }

func (t Tunnel) command(op Op) string {
	add := fmt.Sprintf("ip link add %s && ip link set %s alias %s up", t.Tunnel, t.Name, topology.TunnelAlias)
	switch {
	case op == Delete:
		return "ip link delete " + t.Name
	case t.Recreates():
		return "ip link delete " + t.Was.Name + " && " + add
	case op == Replace:
		return fmt.Sprintf("ip link set %s address %s mtu %d up type vxlan id %d local %s", t.Name, t.MAC, t.MTU, t.VNI, t.Local)
	}
	return add
}

func (t Tunnel) same(before, desired topology.State) bool {
	return sameIn(before.Tunnels, desired.Tunnels, t.Tunnel, topology.Tunnel.Compare)
}

// sameIn reports whether two sorted lists have the same element of a key, or none.
func sameIn[T comparable](before, desired []T, key T, compare func(T, T) int) bool {
	i, was := slices.BinarySearchFunc(before, key, compare)
	j, is := slices.BinarySearchFunc(desired, key, compare)
	return was == is && (!is || before[i] == desired[j])
}

func (t Tunnel) keep(s *topology.State) { s.Tunnels = append(s.Tunnels, t.Tunnel) }

// Neighbor has the MAC address of a peer's end of the tunnel.
type Neighbor struct{ topology.Neighbor }

func (n Neighbor) kind() Kind             { return KindNeighbor }
func (n Neighbor) name() string           { return n.Addr.String() + " dev " + n.Dev }
func (n Neighbor) keep(s *topology.State) { s.Neighbors = append(s.Neighbors, n.Neighbor) }

func (n Neighbor) command(op Op) string {
	if op == Delete {
		return "ip neighbor delete " + n.name()
	}
	return "ip neighbor replace " + n.Neighbor.String()
}

func (n Neighbor) same(before, desired topology.State) bool {
	return sameIn(before.Neighbors, desired.Neighbors, n.Neighbor, topology.Neighbor.Compare)
}

// FDBEntry has the node's address of a peer's end of the tunnel.
type FDBEntry struct{ topology.FDBEntry }

func (e FDBEntry) kind() Kind             { return KindFDB }
func (e FDBEntry) name() string           { return e.MAC.String() + " dev " + e.Dev }
func (e FDBEntry) keep(s *topology.State) { s.FDB = append(s.FDB, e.FDBEntry) }

func (e FDBEntry) command(op Op) string {
	if op == Delete {
		return "bridge fdb delete " + e.FDBEntry.String()
	}
	return "bridge fdb replace " + e.FDBEntry.String()
}

func (e FDBEntry) same(before, desired topology.State) bool {
	return sameIn(before.FDB, desired.FDB, e.FDBEntry, topology.FDBEntry.Compare)
}

func diffTunnels(desired, actual topology.State) Changes {
	var c Changes
	walk(desired.Tunnels, actual.Tunnels, topology.Tunnel.Compare,
		func(t topology.Tunnel) { c = append(c, Change{Add, Tunnel{Tunnel: t}}) },
		func(t topology.Tunnel) { c = append(c, Change{Delete, Tunnel{Tunnel: t}}) },
		func(want, have topology.Tunnel) {
			if want != have {
				c = append(c, Change{Replace, Tunnel{want, have}})
			}
		})
	return c
}

func diffNeighbors(desired, actual topology.State) Changes {
	want, have := differing(desired.Neighbors, actual.Neighbors, equal)
	return diffList(want, have, topology.Neighbor.Compare, func(n topology.Neighbor) Object { return Neighbor{n} })
}

func diffFDB(desired, actual topology.State) Changes {
	want, have := differing(desired.FDB, actual.FDB, equal)
	return diffList(want, have, topology.FDBEntry.Compare, func(e topology.FDBEntry) Object { return FDBEntry{e} })
}

// withoutLost returns the actual State without what goes with tunnels that are recreated: their
// addresses, neighbors, FDB entries and routes.
func withoutLost(desired, actual topology.State) topology.State {
	for _, t := range Objects[Tunnel](diffTunnels(desired, actual), Replace) {
		if gone := t.Was.Name; t.Recreates() {
			actual.Addresses = without(actual.Addresses, func(a topology.Address) bool { return a.Dev == gone })
			actual.Neighbors = without(actual.Neighbors, func(n topology.Neighbor) bool { return n.Dev == gone })
			actual.FDB = without(actual.FDB, func(e topology.FDBEntry) bool { return e.Dev == gone })
			actual.Routes = without(actual.Routes, func(r *topology.Route) bool { return r.Dev == gone })
		}
	}
	return actual
}

func without[T any](all []T, drop func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(all), drop)
}
