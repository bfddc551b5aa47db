package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// A nest finds the prefixes that contain or overlap another one in O(log n). Prefixes are disjoint
// or nested. Sorted, wider ones first, the last one that begins before an address contains it, or
// one of those around that one does:
//
//	|----------- a -----------|      sorted: a b c d
//	   |---- b ----|  |- d -|        outer: of b a, of c b, of d a
//	      |- c -|   x                x comes after c; neither c nor b has it, a does
type nest struct {
	prefixes []netip.Prefix // sorted, each once
	outer    []int          // the index of the one around each; -1: none
}

func newNest(size int) nest { return nest{make([]netip.Prefix, 0, size), make([]int, 0, size)} }

// add returns the index of a prefix, which is the last one, or the next.
func (n *nest) add(p netip.Prefix) int {
	around := n.holding(len(n.prefixes)-1, p.Addr())
	if around >= 0 && n.prefixes[around] == p {
		return around
	}
	n.prefixes, n.outer = append(n.prefixes, p), append(n.outer, around)
	return len(n.prefixes) - 1
}

// holding returns the first of prefix i and those around it that contains the address; -1: none.
func (n *nest) holding(i int, addr netip.Addr) int {
	for i >= 0 && !n.prefixes[i].Contains(addr) {
		i = n.outer[i]
	}
	return i
}

// last returns the index of the last prefix that begins before the end of p; -1: none.
func (n *nest) last(p netip.Prefix) int {
	past, _ := slices.BinarySearchFunc(n.prefixes, p, func(q, p netip.Prefix) int {
		if q.Addr().Compare(p.Addr()) > 0 && !p.Contains(q.Addr()) {
			return 1
		}
		return -1
	})
	return past - 1
}

// An index is a nest with a value for each prefix.
type index[T any] struct {
	nest
	values []T
}

// newIndex takes sorted values. Of those with one prefix it keeps the first.
func newIndex[T any](sorted []T, prefix func(*T) netip.Prefix) index[T] {
	x := index[T]{newNest(len(sorted)), sorted[:0]}
	for i := range sorted {
		if x.add(prefix(&sorted[i])) == len(x.values) {
			x.values = append(x.values, sorted[i])
		}
	}
	return x
}

// lookup returns the value of the longest prefix that contains an address, or nil. It must not be
// changed.
func (x *index[T]) lookup(addr netip.Addr) *T {
	if i := x.holding(x.last(single(addr)), addr); i >= 0 {
		return &x.values[i]
	}
	return nil
}

// overlap returns the value of the widest prefix that overlaps p, or nil.
func (x *index[T]) overlap(p netip.Prefix) (widest *T) {
	for i := x.last(p); i >= 0; i = x.outer[i] {
		if x.prefixes[i].Overlaps(p) {
			widest = &x.values[i]
		}
	}
	return widest
}

// A taken is a range that pod subnets must not overlap, and a description of it.
type taken struct {
	netip.Prefix
	what string
}

// newTakenIndex sorts the ranges; of equal ones it keeps the first description.
func newTakenIndex(ranges []taken) index[taken] {
	slices.SortStableFunc(ranges, func(a, b taken) int { return ComparePrefix(a.Prefix, b.Prefix) })
	return newIndex(ranges, func(t *taken) netip.Prefix { return t.Prefix })
}

// clashOf returns the problem of a pod subnet that overlaps a range, or "".
func clashOf(x *index[taken], p netip.Prefix) string {
	if t := x.overlap(p); t != nil {
		return fmt.Sprintf("podCIDR %s overlaps %s", p, t.what)
	}
	return ""
}

// newRouteIndex returns an index to find the route that the kernel takes to an address, without a
// lookup for each prefix length, because it is used for each InternalIP of all Nodes in every pass.
// The longest prefix decides, then the lowest metric (fib_table_lookup of net/ipv4/fib_trie.c,
// fib6_table_lookup of net/ipv6/route.c).
func newRouteIndex(foreign []Route) index[Route] {
	routes := make([]Route, 0, len(foreign))
	sources := map[netip.Prefix]netip.Prefix{}
	for i := range foreign {
		if foreign[i].From.IsValid() && foreign[i].Dst.Bits() > 0 {
			sources[foreign[i].Dst] = foreign[i].From
		}
	}
	for _, r := range foreign {
		if !r.passedOver() {
			r.From = sources[r.Dst]
			routes = append(routes, r)
		}
	}
	slices.SortStableFunc(routes, func(a, b Route) int { return cmp.Or(CompareRoutes(&a, &b), cmp.Compare(a.proof(), b.proof())) })
	return newIndex(routes, func(r *Route) netip.Prefix { return r.Dst })
}

// passedOver reports whether the kernel skips the route for ordinary packets: it is dead, or for
// one type of service or one source. (Another route to the prefix of one for a source is sometimes
// skipped with it, fib6_node_lookup_1 of net/ipv6/ip6_fib.c, and sometimes not, fib6_backtrack of
// net/ipv6/route.c. In an index it has that source.)
func (r *Route) passedOver() bool { return r.TOS != 0 || r.From.IsValid() || r.Dead }

// proof orders routes with one prefix and metric. The kernel chooses among them by a hash of the
// flow, by their order, which a Host has as well, or by the state of their gateways. So one that
// leads elsewhere comes first, and the address counts as on link only if all of them are on link.
func (r *Route) proof() int {
	switch {
	case r.Type != Unicast:
		return 0
	case r.Via.IsValid() || r.Encap:
		return 1
	}
	return provesOnLink
}

const provesOnLink = 2

// wide reports whether a route's destination is as wide as a default: a default route itself, or a
// part of one, such as 0.0.0.0/1 and 128.0.0.0/1 of a VPN, or 2000::/3, which is all that is
// assigned of IPv6 (RFC 4291, 2.4). Such a route without a gateway (PPP, a modem, a container's
// venet0) defines where packets leave, but proves no neighbor.
func wide(dst netip.Prefix) bool {
	return dst.Bits() < choose(dst.Addr().Is4(), 8, 16) // the widest LAN is 10.0.0.0/8
}
