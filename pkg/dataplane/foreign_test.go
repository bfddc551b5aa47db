package dataplane

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A foreign route proves how an address is reached only if the kernel uses it now, for packets of
// any source, and without an outer header.
func TestForeignRoutesThatProveNothing(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.addVeth("eth1", 1500)
	m.addr("eth1", "192.168.9.11/24")
	m.settle(nodes(2))
	tunneled := m.foreign("172.20.0.0/16", "", "eth0", 0, 4)
	tunneled.Encap = &rtnl.IP6tnlEncap{ID: 5, Dst: net.ParseIP("fd00:192:168:1::9"), Src: net.IPv6zero}
	m.must(m.nl.RouteAdd(tunneled))
	m.sysctl("net/ipv4/conf/eth1/ignore_routes_with_linkdown", "1")
	m.must(m.nl.LinkSetDown(m.link("eth1-peer")))
	m.sourceSpecific("fd00:20::/32", "fd00:30::/32", "fd00:192:168:1::9")
	// The kernel may hold back for a second what it learns of carriers (net/core/link_watch.c).
	for end := time.Now().Add(time.Minute); !m.foreignTo("192.168.9.0/24").Dead && time.Now().Before(end); {
		m.Forget()
	}
	m.Forget()
	for dst, right := range map[string]topology.Route{
		"172.20.0.0/16":  {Encap: true},
		"192.168.9.0/24": {Dead: true},
		"192.168.1.0/24": {},
		"fd00:20::/32":   {From: netip.MustParsePrefix("fd00:30::/32")},
	} {
		r := m.foreignTo(dst)
		if r.Encap != right.Encap || r.Dead != right.Dead || r.From != right.From {
			t.Errorf("%q: encap %v, dead %v, from %v", r, r.Encap, r.Dead, r.From)
		}
	}
}

// sourceSpecific adds a route by way of eth0 for packets from a prefix (CONFIG_IPV6_SUBTREES).
func (m *machine) sourceSpecific(dst, from, via string) {
	m.t.Helper()
	to, source := netip.MustParsePrefix(dst), netip.MustParsePrefix(from)
	b := []byte{unix.AF_INET6, byte(to.Bits()), byte(source.Bits()), 0, unix.RT_TABLE_MAIN, 4, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	b = appendAttribute(b, unix.RTA_DST, to.Addr().AsSlice())
	b = appendAttribute(b, unix.RTA_SRC, source.Addr().AsSlice())
	b = appendAttribute(b, unix.RTA_GATEWAY, netip.MustParseAddr(via).AsSlice())
	m.must(m.ask(unix.RTM_NEWROUTE, netlink.Create, b))
}

// ask sends one request to the kernel on a socket of its own.
func (m *machine) ask(kind netlink.HeaderType, flags netlink.HeaderFlags, data []byte) error {
	m.t.Helper()
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	m.must(err)
	defer c.Close()
	_, err = c.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags}, Data: data})
	return err
}

// foreignTo returns the foreign route to a destination.
func (m *machine) foreignTo(dst string) topology.Route {
	m.t.Helper()
	host, err := m.Facts(context.Background(), nil)
	m.must(err)
	for _, r := range host.Routes {
		if r.Dst.String() == dst {
			return r
		}
	}
	m.t.Fatalf("no foreign route to %s among %v", dst, host.Routes)
	return topology.Route{}
}
