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

// diffSysctls puts accept_ra first: forwarding would drop what it keeps.
func diffSysctls(desired, actual map[string]string) []Sysctl {
	var changes []Sysctl
	for path, value := range desired {
		if actual[path] != value {
			changes = append(changes, Sysctl{path, value})
		}
	}
	slices.SortFunc(changes, func(a, b Sysctl) int {
		late := func(s Sysctl) int {
			if strings.HasSuffix(s.Path, "/accept_ra") {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(late(a), late(b)), cmp.Compare(a.Path, b.Path))
	})
	return changes
}

// diffRoutes walks two sorted lists side by side.
func (c *Changes) diffRoutes(desired, actual []topology.Route) {
	for len(desired) > 0 || len(actual) > 0 {
		switch order := compareHeads(desired, actual, topology.Route.Compare); {
		case order < 0:
			c.Add = append(c.Add, desired[0])
			desired = desired[1:]
		case order > 0:
			c.Delete = append(c.Delete, actual[0])
			actual = actual[1:]
		default:
			if desired[0] != actual[0] {
				c.Replace = append(c.Replace, desired[0])
			}
			desired, actual = desired[1:], actual[1:]
		}
	}
}

// compareHeads compares the first elements; an empty list comes after all.
func compareHeads[T any](a, b []T, compare func(T, T) int) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return 1
	}
	return compare(a[0], b[0])
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
		Cluster: topology.Outermost(slices.Concat(desired.Cluster, actual.Cluster)),
		Nodes:   union(desired.Nodes, actual.Nodes),
	}
	if desired.SameRules(actual) {
		c.Widen = diffSets(&wide, actual)
	} else {
		c.Table = &wide
	}
	c.Narrow = diffSets(desired, &wide)
}

func union(a, b []netip.Addr) []netip.Addr {
	all := slices.Concat(a, b)
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

func diffSets(desired, actual *topology.Masquerade) SetChange {
	var s SetChange
	s.AddCluster, s.DeleteCluster = diffSorted(desired.Cluster, actual.Cluster, topology.ComparePrefix)
	s.AddNodes, s.DeleteNodes = diffSorted(desired.Nodes, actual.Nodes, netip.Addr.Compare)
	return s
}

func diffSorted[T any](desired, actual []T, compare func(T, T) int) (add, remove []T) {
	for len(desired) > 0 || len(actual) > 0 {
		switch order := compareHeads(desired, actual, compare); {
		case order < 0:
			add, desired = append(add, desired[0]), desired[1:]
		case order > 0:
			remove, actual = append(remove, actual[0]), actual[1:]
		default:
			desired, actual = desired[1:], actual[1:]
		}
	}
	return add, remove
}
