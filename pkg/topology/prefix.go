package topology

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// special are the ranges that hold neither pods nor next hops: "this network",
// loopback, link-local, multicast and reserved (RFC 6890, RFC 4291).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"),
	reserved,
	netip.MustParsePrefix("::/8"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// reserved is "for future use" (RFC 1112, section 4); Linux routes it, and clusters that
// have run out of RFC 1918's addresses use it for pods.
var reserved = netip.MustParsePrefix("240.0.0.0/4")

// unicast reports whether an address can be a next hop at all. One of the reserved range can,
// except for the limited broadcast address: whether it is on link, this host's routes show.
func unicast(addr netip.Addr) bool {
	return addr != Last(reserved) && !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p != reserved && p.Contains(addr) })
}

// Last returns the highest address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for i := range bytes {
		switch host := (i+1)*8 - p.Bits(); {
		case host >= 8:
			bytes[i] = 0xff
		case host > 0:
			bytes[i] |= 1<<host - 1
		}
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// single returns the prefix that holds one address.
func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// within tells whether one of the ranges holds all of p.
func within(ranges []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Bits() <= p.Bits() && r.Contains(p.Addr()) })
}

// Outermost sorts prefixes and drops those that another one holds, so that what
// remains is disjoint, as an nftables interval set requires.
func Outermost(prefixes []netip.Prefix) []netip.Prefix {
	prefixes = slices.Clone(prefixes)
	slices.SortFunc(prefixes, ComparePrefix)
	outer := prefixes[:0]
	for _, p := range prefixes {
		if n := len(outer); n == 0 || !outer[n-1].Overlaps(p) {
			outer = append(outer, p)
		}
	}
	return outer
}

// ComparePrefix orders by address, then wider ones first.
func ComparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

// sortAddrs sorts as netip.Addr.Compare does, IPv4 addresses by their digits: next hops
// come in the order of the subnets behind them, which is any, and in every pass.
func sortAddrs(addrs []netip.Addr) {
	if slices.IsSortedFunc(addrs, netip.Addr.Compare) {
		return
	}
	numbers := make([]uint32, 0, len(addrs))
	others := addrs[:0]
	for _, a := range addrs {
		if a.Is4() {
			b := a.As4()
			numbers = append(numbers, binary.BigEndian.Uint32(b[:]))
			continue
		}
		others = append(others, a)
	}
	sortNumbers(numbers)
	slices.SortFunc(others, netip.Addr.Compare)
	copy(addrs[len(numbers):], others)
	for i, n := range numbers {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n)
		addrs[i] = netip.AddrFrom4(b)
	}
}

// sortNumbers is a radix sort, the lowest byte first.
func sortNumbers(from []uint32) {
	to := make([]uint32, len(from))
	for shift := 0; shift < 32; shift += 8 { // an even number of times, so that they end where they were
		var next [257]int // where the next number goes that has this byte
		for _, n := range from {
			next[n>>shift&0xff+1]++
		}
		for i := range 256 {
			next[i+1] += next[i]
		}
		for _, n := range from {
			at := &next[n>>shift&0xff]
			to[*at] = n
			*at++
		}
		from, to = to, from
	}
}

// A taken is a range that pod subnets must keep off, and what it belongs to.
type taken struct {
	netip.Prefix
	what string
}

// A takenIndex finds what overlaps a prefix in O(log n), and O(n log n) to make.
//
// Ranges are sorted by their first address; reach[i] tells which of the first
// i+1 ends last. A prefix overlaps one of those that begin before its end
// exactly if the one that reaches furthest ends after its beginning:
//
//	|--- a ---|    |- c -|      sorted by beginning: a b c
//	   |- b -|                  furthest reach:      a a c
//	           |p|              c begins after p, a ends before it: free
type takenIndex struct {
	ranges []taken
	reach  []int
}

// newTakenIndex sorts the ranges; of equal ones the first speaks for all.
func newTakenIndex(ranges []taken) takenIndex {
	slices.SortStableFunc(ranges, func(a, b taken) int { return ComparePrefix(a.Prefix, b.Prefix) })
	idx := takenIndex{ranges: ranges, reach: make([]int, len(ranges))}
	for i := 1; i < len(ranges); i++ {
		idx.reach[i] = i
		if j := idx.reach[i-1]; Last(ranges[i].Prefix).Compare(Last(ranges[j].Prefix)) <= 0 {
			idx.reach[i] = j
		}
	}
	return idx
}

// overlap returns a range that overlaps p.
func (x takenIndex) overlap(p netip.Prefix) (taken, bool) {
	if len(x.ranges) == 0 {
		return taken{}, false
	}
	i, _ := slices.BinarySearchFunc(x.ranges, p, func(t taken, p netip.Prefix) int {
		if t.Addr().Compare(p.Addr()) > 0 && !p.Contains(t.Addr()) { // it begins after the end of p
			return 1
		}
		return -1
	})
	if i == 0 {
		return taken{}, false
	}
	t := x.ranges[x.reach[i-1]]
	return t, t.Overlaps(p)
}

// clash says what a pod subnet overlaps, if anything.
func (x takenIndex) clash(p netip.Prefix) string {
	if t, ok := x.overlap(p); ok {
		return fmt.Sprintf("podCIDR %s overlaps %s", p, t.what)
	}
	return ""
}

// byFamily has a value for each family of addresses. Unlike a map with two keys it
// costs nothing to look at, which is done several times a Node.
type byFamily[T any] struct{ v4, v6 T }

func (f *byFamily[T]) of(is4 bool) *T {
	if is4 {
		return &f.v4
	}
	return &f.v6
}
