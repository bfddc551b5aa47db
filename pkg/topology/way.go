package topology

import (
	"cmp"
	"net/netip"
	"slices"
)

// A wayIndex finds the route of the longest prefix to an address, without a look at
// each length there is: it is asked for each InternalIP of all Nodes, in every pass.
//
// Prefixes either are disjoint or one holds the other. Sorted, wider ones first, the last
// one that begins before an address holds it, or one of those that hold that one does:
//
//	|----------- a -----------|      sorted: a b c d
//	   |---- b ----|  |- d -|        outer: of b a, of c b, of d a
//	      |- c -|   x                x comes after c; neither c nor b has it, a does
type wayIndex struct {
	routes []Route      // of one prefix the one with the lowest metric
	begins []netip.Addr // where each begins
	outer  []int        // which one holds each; -1: none
}

func newWayIndex(foreign []Route) wayIndex {
	routes := make([]Route, 0, len(foreign))
	for _, r := range foreign {
		if r.TOS == 0 {
			routes = append(routes, r)
		}
	}
	slices.SortStableFunc(routes, Route.Compare)
	routes = slices.CompactFunc(routes, func(a, b Route) bool { return a.Dst == b.Dst })
	idx := wayIndex{routes, make([]netip.Addr, len(routes)), make([]int, len(routes))}
	for i := range routes {
		idx.begins[i] = routes[i].Dst.Addr()
		idx.outer[i] = idx.holding(i-1, idx.begins[i])
	}
	return idx
}

// holding climbs from route i to one that holds the address.
func (x wayIndex) holding(i int, addr netip.Addr) int {
	for i >= 0 && !x.routes[i].Dst.Contains(addr) {
		i = x.outer[i]
	}
	return i
}

// to returns the route to an address, nil if there is none. It must not be changed.
func (x wayIndex) to(addr netip.Addr) *Route {
	past, _ := slices.BinarySearchFunc(x.begins, addr, func(begin, addr netip.Addr) int {
		return cmp.Or(begin.Compare(addr), -1)
	})
	if i := x.holding(past-1, addr); i >= 0 {
		return &x.routes[i]
	}
	return nil
}
