package main

import (
	"fmt"
	"net/netip"
)

// The address plan: Node number i has the i-th address of the LAN past the first 256, and the i-th pod subnet.
//
//	             LAN (/16)                      pod subnets (/24 of 10.128.0.0/9)
//	router       172.20.0.1   fd00:172:20::1
//	own Node 0   172.20.1.0   fd00:172:20::100  10.128.0.0/24   fd00:10:128:0::/64
//	Node 1       172.20.1.1   fd00:172:20::101  10.128.1.0/24   fd00:10:128:1::/64
//	…moved       172.20.129.1
const (
	routerIndex = -255
	ownIndex    = 0
	// movedBy takes a Node to an address that no other one has.
	movedBy = 1 << 15
	// maxNodes leaves room on the LAN for Nodes that come and that move, and for its broadcast address.
	maxNodes = 30000

	podRange4, podRange6 = "10.128.0.0/9", "fd00:10:128::/48"
)

// address4 is the IPv4 address of Node number index.
func address4(index int) netip.Addr {
	n := 256 + index
	return netip.AddrFrom4([4]byte{172, 20, byte(n >> 8), byte(n)})
}

func address6(index int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:172:20::%x", 256+index))
}

// addresses are those of Node number index with the LAN's prefix length, of the families that are measured.
func (l *lab) addresses(index int) []netip.Prefix {
	all := []netip.Prefix{netip.PrefixFrom(address4(index), 16)}
	if l.opts.dualStack {
		all = append(all, netip.PrefixFrom(address6(index), 64))
	}
	return all
}

// subnets are the pod subnets of Node number index.
func (l *lab) subnets(index int) []netip.Prefix {
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
		return podRange4 + "," + podRange6
	}
	return podRange4
}

// peerRoutes is how many routes there are when all is well.
func (l *lab) peerRoutes() int { return (l.opts.nodes - 1) * len(l.addresses(ownIndex)) }

func nodeName(index int) string {
	return fmt.Sprintf("ip-172-20-node-%05d.eu-central-1.compute.internal", index)
}
