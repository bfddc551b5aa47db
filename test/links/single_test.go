package links

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// singles are devices that have the InternalIPs as single addresses, with the function that makes one.
var singles = map[string]func(t *testing.T, node *nodelab.Node) (device string){
	"lo": func(*testing.T, *nodelab.Node) string { return "lo" },
	"dummy": func(t *testing.T, node *nodelab.Node) string {
		add(t, node, &netlink.Dummy{LinkAttrs: attrs(under, nil)})
		return under
	},
}

// The InternalIPs are single addresses of a device that leads nowhere. The nodes know by which of their links, or gateways, they
// reach each other's.
func TestSingleAddresses(t *testing.T) {
	for name, build := range singles {
		t.Run(name, func(t *testing.T) {
			ctx := testutil.Within(t, limit)
			f := setup(t)
			for i, node := range f.nodes {
				address(t, node, build(t, node), networks(node, true)...)
				lead(t, node, f.nodes[1-i], storage, storageAddrs(f.nodes[1-i])...)
			}
			f.on(t, underAddresses)
			f.start(ctx, t, "--off-link=gateway")
			awaitDevice(t, f.nodes[0], f.nodes[1], storage)
			peer := storageAddrs(f.nodes[1])
			f.paths(ctx, t, map[netip.Prefix]string{
				f.nodes[1].Subnets[0]: "gateway by " + f.nodes[1].V4.String() + "/32 via " + peer[0].String() + " dev eth1 proto 4",
				f.nodes[1].Subnets[1]: "gateway by " + f.nodes[1].V6.String() + "/128 via " + peer[1].String() + " dev eth1 proto 4 metric 1024",
			})
			f.reachEachOther(ctx, t)
			f.again(ctx, t, "--encapsulation=cross-subnet")
			awaitDevice(t, f.nodes[0], f.nodes[1], tunnels...)
			f.reachEachOther(ctx, t)
		})
	}
}

// An IPv4 address on lo is a neighbor on each link, because the kernel answers ARP for all of its addresses on each of them.
func TestSingleAddressOnLink(t *testing.T) {
	ctx := testutil.Within(t, limit)
	f := setup(t)
	for i, node := range f.nodes {
		v4, _ := underAddresses(node)
		address(t, node, "lo", netip.PrefixFrom(v4, 32))
		peer, _ := underAddresses(f.nodes[1-i])
		testutil.Must(t, node.Handle().RouteAdd(&netlink.Route{
			LinkIndex: linkOf(t, node, storage).Attrs().Index, Scope: unix.RT_SCOPE_LINK, Dst: ipNet(netip.PrefixFrom(peer, 32)),
		}))
	}
	f.on(t, func(node *nodelab.Node) (v4, v6 netip.Addr) {
		v4, _ = underAddresses(node)
		return v4, node.V6
	})
	f.start(ctx, t)
	awaitDevice(t, f.nodes[0], f.nodes[1], storage, "eth0")
	f.reachEachOther(ctx, t)
}

// IPv4 by way of IPv6: the nodes reach each other's addresses on lo by link-local gateways, as with unnumbered BGP.
func TestUnnumbered(t *testing.T) {
	ctx := testutil.Within(t, limit)
	f := setup(t)
	for i, node := range f.nodes {
		address(t, node, "lo", networks(node, true)...)
		unnumbered(t, node, f.nodes[1-i])
	}
	f.on(t, underAddresses)
	f.start(ctx, t, "--off-link=gateway")
	awaitDevice(t, f.nodes[0], f.nodes[1], storage)
	f.reachEachOther(ctx, t)
	watch, err := f.nodes[0].WatchRoutes()
	testutil.Must(t, err)
	defer watch.Close()
	f.again(ctx, t, "--off-link=gateway")
	f.reachEachOther(ctx, t)
	if events := watch.Drain(); len(events) > 0 {
		t.Errorf("the agent that was started again changed routes that were right: %+v", events)
	}
}

// unnumbered adds routes on a node to a peer's addresses by the peer's link-local address on the storage network.
func unnumbered(t *testing.T, node, peer *nodelab.Node) {
	t.Helper()
	gateway := linkLocal(t, peer)
	v4, v6 := underAddresses(peer)
	index := linkOf(t, node, storage).Attrs().Index
	testutil.Must(t, node.Handle().RouteAdd(&netlink.Route{
		LinkIndex: index, Protocol: unix.RTPROT_BGP, Dst: ipNet(netip.PrefixFrom(v4, 32)), Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: gateway.AsSlice()},
	}))
	testutil.Must(t, node.Handle().RouteAdd(&netlink.Route{
		LinkIndex: index, Protocol: unix.RTPROT_BGP, Dst: ipNet(netip.PrefixFrom(v6, 128)), Gw: gateway.AsSlice(),
	}))
}

// linkLocal is a node's IPv6 link-local address on the storage network.
func linkLocal(t *testing.T, node *nodelab.Node) (found netip.Addr) {
	t.Helper()
	addrs, err := node.Handle().AddrList(linkOf(t, node, storage), unix.AF_INET6)
	testutil.Must(t, err)
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.IsLinkLocalUnicast() {
			found = addr
		}
	}
	return found
}

// A cloud's private network: each machine has single addresses, and all others are behind a gateway, which is on link by itself and
// has routes to the pod subnets.
func TestOnLinkGateway(t *testing.T) {
	ctx := testutil.Within(t, limit)
	f := setup(t)
	gateways := []netip.Prefix{netip.MustParsePrefix("10.50.0.254/32"), netip.MustParsePrefix("fd00:10:50::fe/128")}
	cloud, err := f.LAN.Handle().LinkByName("lan1")
	testutil.Must(t, err)
	for _, p := range gateways {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		testutil.Must(t, f.LAN.Handle().AddrAdd(cloud, addr))
		t.Cleanup(func() { testutil.Must(t, f.LAN.Handle().AddrDel(cloud, addr)) })
	}
	for _, node := range f.nodes {
		link := linkOf(t, node, storage)
		address(t, node, storage, networks(node, true)...)
		for i, p := range networks(node, true) {
			to := ipNet(networks(node, false)[i].Masked())
			testutil.Must(t, node.Handle().RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Gw: gateways[i].Addr().AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
			for _, route := range []*netlink.Route{
				{LinkIndex: cloud.Attrs().Index, Dst: ipNet(p)},
				{LinkIndex: cloud.Attrs().Index, Dst: ipNet(node.Subnets[i]), Gw: p.Addr().AsSlice(), Flags: int(netlink.FLAG_ONLINK)},
			} {
				testutil.Must(t, f.LAN.Handle().RouteAdd(route))
				t.Cleanup(func() { testutil.Must(t, f.LAN.Handle().RouteDel(route)) })
			}
		}
	}
	f.on(t, underAddresses)
	f.start(ctx, t, "--off-link=gateway")
	awaitDevice(t, f.nodes[0], f.nodes[1], storage)
	f.reachEachOther(ctx, t)
	f.again(ctx, t, "--encapsulation=cross-subnet")
	awaitDevice(t, f.nodes[0], f.nodes[1], tunnels...)
	f.reachEachOther(ctx, t)
}
