package topology

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// special are the ranges without pods and next hops: "this network", loopback, link-local,
// multicast and reserved (RFC 6890, RFC 4291).
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

// reserved is "for future use" (RFC 1112, section 4); Linux routes it, and clusters that have used
// up RFC 1918's addresses have pods in it.
var reserved = netip.MustParsePrefix("240.0.0.0/4")

// unicast reports whether an address can be a next hop at all. Addresses of the reserved range can,
// except for the limited broadcast address.
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

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func within(ranges []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Bits() <= p.Bits() && r.Contains(p.Addr()) })
}

// firstOf returns the first prefix of a family, or the zero Prefix.
func firstOf(prefixes []netip.Prefix, is4 bool) netip.Prefix {
	for _, p := range prefixes {
		if p.Addr().Is4() == is4 {
			return p
		}
	}
	return netip.Prefix{}
}

func hasFamily(prefixes []netip.Prefix, is4 bool) bool { return firstOf(prefixes, is4).IsValid() }

// Outermost returns the sorted prefixes without those that another one contains. They are disjoint,
// as an nftables interval set requires.
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

// ComparePrefix orders by address, then the widest first.
func ComparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

// sortAddrs sorts as netip.Addr.Compare does, and IPv4 addresses faster, as numbers: next hops are
// sorted in every pass, and their order, that of the subnets behind them, is arbitrary.
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
	slices.Sort(numbers)
	slices.SortFunc(others, netip.Addr.Compare)
	copy(addrs[len(numbers):], others)
	for i, n := range numbers {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n)
		addrs[i] = netip.AddrFrom4(b)
	}
}

// families are the address families with what differs between them.
var families = []struct {
	is4                             bool
	number                          int // in paths of settings
	forward, noForward, bridgeNF    string
	suffix, nft, setType, multicast string // in our nftables table
}{
	{true, 4, SysctlForward4, "IPv4 is off in this kernel", SysctlBridgeNF4, "4", "ip", "ipv4_addr", "224.0.0.0/4"},
	{false, 6, SysctlForward6, "IPv6 is off in this kernel, yet there are IPv6 pod subnets", SysctlBridgeNF6, "6", "ip6", "ipv6_addr", "ff00::/8"},
}

func familyName(is4 bool) string { return choose(is4, "IPv4", "IPv6") }

// byFamily has a value for each address family. Lookups are cheaper than those of a map, and there
// are several for each Node.
type byFamily[T any] struct{ v4, v6 T }

func (f *byFamily[T]) of(is4 bool) *T { return choose(is4, &f.v4, &f.v6) }

// choose returns the value for a family.
func choose[T any](is4 bool, v4, v6 T) T {
	if is4 {
		return v4
	}
	return v6
}
