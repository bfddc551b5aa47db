package main

import (
	"fmt"
	"net/netip"
)

// The address plan: Node number i has the i-th address of the LAN past the first 512, and the i-th pod subnet.
//
//	             LAN (/16)                      pod subnets (/24 of 10.128.0.0/9)
//	router       172.20.0.1   fd00:172:20::1
//	own Node 0   172.20.1.0   fd00:172:20::100  10.128.0.0/24   fd00:10:128:0::/64
//	Node 1       172.20.2.1   fd00:172:20::201  10.128.1.0/24   fd00:10:128:1::/64
//	…moved       172.20.130.1
//
// With -claims the LAN is a /14 and a pod subnet a /26, so that there is room for more Nodes.
// With -off-link the LAN ends before Node 1, and all other Nodes are behind the router.
const (
	routerIndex = -255
	ownIndex    = 0
	// movedBy takes a Node to an address that no other one has.
	movedBy = 1 << 15
	// maxNodes leaves room on the LAN for Nodes that come and that move, and for its broadcast address.
	maxNodes = 30000
	// maxClaims leaves the last of the /26 of podRange4 unused.
	maxClaims = 120000
)

var podRange4, podRange6 = netip.MustParsePrefix("10.128.0.0/9"), netip.MustParsePrefix("fd00:10:128::/48")

// hostNumber is the last part of a Node's addresses.
func hostNumber(index int) int {
	if index > ownIndex {
		return 512 + index
	}
	return 256 + index
}

// address4 is the IPv4 address of Node number index.
func address4(index int) netip.Addr {
	n := hostNumber(index)
	return netip.AddrFrom4([4]byte{172, byte(20 + n>>16), byte(n >> 8), byte(n)})
}

func address6(index int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:172:20::%x", hostNumber(index)))
}

// addresses are those of Node number index with the LAN's prefix length, of the families that are measured.
func (l *lab) addresses(index int) []netip.Prefix {
	bits4, bits6 := 16, 64
	if l.opts.offLink {
		bits4, bits6 = 23, 119
	} else if l.opts.claims {
		bits4 = 14
	}
	all := []netip.Prefix{netip.PrefixFrom(address4(index), bits4)}
	if l.opts.dualStack {
		all = append(all, netip.PrefixFrom(address6(index), bits6))
	}
	return all
}

// subnets are the pod subnets of Node number index.
func (l *lab) subnets(index int) []netip.Prefix {
	if l.opts.claims {
		return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + index>>10), byte(index >> 2), byte(index << 6)}), 26)}
	}
	all := []netip.Prefix{subnet4(index)}
	if l.opts.dualStack {
		all = append(all, netip.MustParsePrefix(fmt.Sprintf("fd00:10:128:%x::/64", index)))
	}
	return all
}

func subnet4(index int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + index>>8), byte(index), 0}), 24)
}

func (l *lab) podRanges() string {
	if l.opts.dualStack {
		return podRange4.String() + "," + podRange6.String()
	}
	return podRange4.String()
}

// peerRoutes is how many routes there are when all is well.
func (l *lab) peerRoutes() int { return (l.opts.nodes - 1) * len(l.addresses(ownIndex)) }

// perRoute is how many objects come with a route, itself among them: also a neighbor and an FDB entry, if it leads into a
// tunnel.
func (l *lab) perRoute() int {
	if l.opts.offLink {
		return 3
	}
	return 1
}

func nodeName(index int) string {
	return fmt.Sprintf("ip-172-20-node-%05d.eu-central-1.compute.internal", index)
}
