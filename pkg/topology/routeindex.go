package topology

import (
	"cmp"
	"net/netip"
	"slices"
)

// A routeIndex finds the route that the kernel takes to an address, without a lookup for each
// prefix length, because it is used for each InternalIP of all Nodes in every pass. The longest
// prefix decides, then the lowest metric (fib_table_lookup of net/ipv4/fib_trie.c,
// fib6_table_lookup of net/ipv6/route.c).
//
// Prefixes are disjoint or nested. Sorted, wider ones first, the last one that begins before an
// address contains it, or one of those around that one does:
//
//	|----------- a -----------|      sorted: a b c d
//	   |---- b ----|  |- d -|        outer: of b a, of c b, of d a
//	      |- c -|   x                x comes after c; neither c nor b has it, a does
type routeIndex struct {
	routes []Route      // one for each prefix
	begins []netip.Addr // the first address of each
	outer  []int        // the index of the one around each; -1: none
}

func newRouteIndex(foreign []Route) routeIndex {
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
	slices.SortStableFunc(routes, func(a, b Route) int { return cmp.Or(a.Compare(b), cmp.Compare(a.proof(), b.proof())) })
	routes = slices.CompactFunc(routes, func(a, b Route) bool { return a.Dst == b.Dst })
	idx := routeIndex{routes, make([]netip.Addr, len(routes)), make([]int, len(routes))}
	for i := range routes {
		idx.begins[i] = routes[i].Dst.Addr()
		idx.outer[i] = idx.holding(i-1, idx.begins[i])
	}
	return idx
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

// holding returns the first of route i and those around it that contains the address.
func (x routeIndex) holding(i int, addr netip.Addr) int {
	for i >= 0 && !x.routes[i].Dst.Contains(addr) {
		i = x.outer[i]
	}
	return i
}

// lookup returns the route to an address, or nil. It must not be changed.
func (x routeIndex) lookup(addr netip.Addr) *Route {
	past, _ := slices.BinarySearchFunc(x.begins, addr, func(begin, addr netip.Addr) int {
		return cmp.Or(begin.Compare(addr), -1)
	})
	if i := x.holding(past-1, addr); i >= 0 {
		return &x.routes[i]
	}
	return nil
}
