package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Diff computes the Changes from actual to desired. Diff(s, s) is empty, and
// both States' routes must be sorted, as Desired and Observe give them.
func Diff(desired, actual topology.State) Changes {
	var c Changes
	c.Sysctls = diffSysctls(desired.Sysctls, actual.Sysctls)
	c.AddAddresses, c.DeleteAddresses = diffSorted(desired.Addresses, actual.Addresses, topology.Address.Compare)
	c.diffDevices(desired, actual)
	c.diffRoutes(desired.Routes, actual.Routes)
	c.diffMasquerade(desired.Masquerade, actual.Masquerade)
	switch {
	case desired.CNI == nil:
		c.DeleteCNI = actual.CNI != nil
	case !desired.CNI.Equal(actual.CNI):
		c.CNI = desired.CNI
	}
	return c
}

// diffDevices never takes a port out of the bridge. A port that is only in the desired
// State has gone with its pod.
func (c *Changes) diffDevices(desired, actual topology.State) {
	if desired.Bridge == "" {
		c.DeleteBridge = actual.Bridge
	}
	walk(desired.Devices, actual.Devices, topology.Device.Compare,
		func(d topology.Device) {
			if d.Name == desired.Bridge && actual.Bridge == "" {
				c.AddBridge = &d
				c.SetDevices = append(c.SetDevices, d)
			}
		},
		func(topology.Device) {},
		func(want, have topology.Device) {
			if !want.Like(have) {
				c.SetDevices = append(c.SetDevices, want)
			}
		})
}

// diffSysctls puts accept_ra first: forwarding would drop what it keeps.
func diffSysctls(desired, actual map[string]string) []Sysctl {
	var changes []Sysctl
	for path, value := range desired {
		if actual[path] != value {
			changes = append(changes, Sysctl{path, value})
		}
	}
	slices.SortFunc(changes, func(a, b Sysctl) int {
		rank := func(s Sysctl) int {
			if strings.HasSuffix(s.Path, "/accept_ra") {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Path, b.Path))
	})
	return changes
}

// walk goes over two sorted lists side by side.
func walk[T any](desired, actual []T, compare func(T, T) int, onlyDesired, onlyActual func(T), both func(desired, actual T)) {
	for len(desired) > 0 || len(actual) > 0 {
		var order int
		switch {
		case len(actual) == 0:
			order = -1
		case len(desired) == 0:
			order = 1
		default:
			order = compare(desired[0], actual[0])
		}
		switch {
		case order < 0:
			onlyDesired(desired[0])
			desired = desired[1:]
		case order > 0:
			onlyActual(actual[0])
			actual = actual[1:]
		default:
			both(desired[0], actual[0])
			desired, actual = desired[1:], actual[1:]
		}
	}
}

// differing cuts off what two lists begin with and what they end with alike: where
// one Node of thousands changed, that is nearly all.
func differing[T comparable](a, b []T) (restA, restB []T) {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	a, b = a[n:], b[n:]
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

func (c *Changes) diffRoutes(desired, actual []topology.Route) {
	desired, actual = differing(desired, actual)
	walk(desired, actual, topology.Route.Compare,
		func(r topology.Route) { c.Add = append(c.Add, r) },
		func(r topology.Route) { c.Delete = append(c.Delete, r) },
		func(want, have topology.Route) {
			if want != have {
				c.Replace = append(c.Replace, want)
			}
		})
}

// diffMasquerade goes over the union of both tables' sets: wide before the
// routes change, narrow after.
func (c *Changes) diffMasquerade(desired, actual *topology.Masquerade) {
	if desired == nil {
		c.DeleteTable = actual != nil
		return
	}
	if actual == nil {
		c.Table = desired
		return
	}
	wide := topology.Masquerade{
		Bridge:  desired.Bridge,
		Sources: desired.Sources,
		Egress:  desired.Egress,
		Cluster: desired.Cluster,
		Nodes:   desired.Nodes,
	}
	if more := leaving(desired, desired.Cluster, actual.Cluster, topology.ComparePrefix, netip.Prefix.Addr); len(more) > 0 {
		wide.Cluster = topology.Outermost(union(desired.Cluster, more, topology.ComparePrefix))
	}
	if more := leaving(desired, desired.Nodes, actual.Nodes, netip.Addr.Compare, netip.Addr.Unmap); len(more) > 0 {
		wide.Nodes = union(desired.Nodes, more, netip.Addr.Compare)
	}
	if desired.SameRules(actual) {
		c.Widen = diffSets(&wide, actual)
	} else {
		c.Table = &wide
	}
	c.Narrow = diffSets(desired, &wide)
}

// leaving returns the elements that only the actual sets have, of the families for which the
// desired table has sets at all.
func leaving[T comparable](m *topology.Masquerade, desired, actual []T, compare func(T, T) int, addr func(T) netip.Addr) []T {
	_, more := diffSorted(desired, actual, compare)
	return slices.DeleteFunc(more, func(x T) bool { return !m.Serves(addr(x).Is4()) })
}

// union merges two sorted lists.
func union[T any](a, b []T, compare func(T, T) int) []T {
	all := make([]T, 0, max(len(a), len(b)))
	keep := func(x T) { all = append(all, x) }
	walk(a, b, compare, keep, keep, func(x, _ T) { keep(x) })
	return all
}

func diffSets(desired, actual *topology.Masquerade) SetChange {
	var s SetChange
	s.AddCluster, s.DeleteCluster = diffSorted(desired.Cluster, actual.Cluster, topology.ComparePrefix)
	s.AddNodes, s.DeleteNodes = diffSorted(desired.Nodes, actual.Nodes, netip.Addr.Compare)
	return s
}

func diffSorted[T comparable](desired, actual []T, compare func(T, T) int) (add, remove []T) {
	desired, actual = differing(desired, actual)
	walk(desired, actual, compare,
		func(x T) { add = append(add, x) }, func(x T) { remove = append(remove, x) }, func(T, T) {})
	return add, remove
}
