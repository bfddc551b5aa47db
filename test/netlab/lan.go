// Package netlab makes a network of namespaces on one machine: a LAN with a router, machines on it, and a host outside.
// It sends and receives in Go, so that a machine needs no ping, nft or tcpdump.
//
// It runs inside a sandbox (package sandbox), whose network namespace becomes the LAN and whose end removes everything.
package netlab

import "net/netip"

// The addresses of the LAN, its router and the world behind it:
//
//	node1 .11    node2 .12    node3 .13
//	  eth0         eth0         eth0
//	    \           |           /            lan0 192.168.1.1/24, fd00:192:168:1::1/64
//	     ----- the LAN's namespace -----     etcd, kube-apiserver, router
//	                |                        wan0 198.51.100.1/24, 2001:db8:51::1/64
//	              eth0
//	     outside 198.51.100.2                no route to any pod: its answers reach masqueraded senders only
//
// AddSecondLAN adds another LAN behind the same router, with lan1 192.168.2.1/24 and fd00:192:168:2::1/64.
const (
	wanDevice = "wan0"

	// Uplink is the device of a host that leads to the LAN, or of a pod that leads to its node.
	Uplink = "eth0"
)

var (
	// Router4 is the nodes' default gateway, and where the API server listens.
	Router4 = netip.MustParseAddr("192.168.1.1")
	// Router6 is the nodes' default gateway of IPv6.
	Router6 = netip.MustParseAddr("fd00:192:168:1::1")

	lans = [2]lan{
		{"lan0", netip.PrefixFrom(Router4, 24), netip.PrefixFrom(Router6, 64)},
		{"lan1", netip.MustParsePrefix("192.168.2.1/24"), netip.MustParsePrefix("fd00:192:168:2::1/64")},
	}
	wan4     = netip.MustParsePrefix("198.51.100.1/24")
	wan6     = netip.MustParsePrefix("2001:db8:51::1/64")
	outside4 = netip.MustParseAddr("198.51.100.2")
	outside6 = netip.MustParseAddr("2001:db8:51::2")
	default4 = netip.MustParsePrefix("0.0.0.0/0")
	default6 = netip.MustParsePrefix("::/0")
)

// A lan is a switch with machines, and the router's addresses on it.
type lan struct {
	bridge string
	v4, v6 netip.Prefix
}
