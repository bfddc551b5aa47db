package faults

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/netlab"
)

func conflictFaults() []fault {
	return []fault{
		{
			name:   "a foreign route to a peer's pods, preferred to ours, comes and goes",
			answer: "it is reported and left alone; ours carries the traffic the instant it goes",
			inject: func(l *lab) { l.foreignRoute(addForeign, netlab.Router4, 0) },
			times:  2, within: healLimit, loses: untilRepaired, repaired: noConflict,
		},
		{
			name:   "a foreign route at our own metric, before ours",
			answer: "it is reported and left alone, and so is ours",
			inject: func(l *lab) { l.foreignRoute(prependForeign, l.peer.V4, int(topology.PeerMetric(l.peer.Subnets[0]))) },
			times:  2, within: healLimit, repaired: noConflict,
		},
		{
			name:   "a foreign route at our own metric, after ours",
			answer: "it is reported and left alone, and so is ours",
			inject: func(l *lab) {
				l.foreignRoute(appendForeign, netlab.Router4, int(topology.PeerMetric(l.peer.Subnets[0])))
			},
			times: 2, within: healLimit, repaired: noConflict,
		},
		{
			name:    "50,000 routes of a routing daemon, one of which comes and goes all the time, and one of ours deleted",
			answer:  "ours is put back; what concerns neither Nodes nor pods is not looked at",
			prepare: (*lab).fillTable,
			inject:  deleteAmongFlaps, times: 3, within: healLimit, loses: untilRepaired, repaired: peerRouted,
		},
		{
			name:    "a foreign next hop appended to an IPv6 route of ours",
			answer:  "it is reported and left alone; after it ours is as it was",
			prepare: (*lab).join,
			inject:  appendNextHop, times: 2, within: healLimit, repaired: noConflict,
		},
		{
			name:    "a Node leaves whose IPv6 route has got a foreign next hop, and comes back when that is gone",
			answer:  "our next hop goes and the foreign one stays; then there is a route of ours again",
			prepare: (*lab).join,
			inject:  leaveNextHop, within: healLimit, repaired: noConflict,
		},
		{
			name:    "IPv6 forwarding switched on under a default route of a router's advertisement",
			answer:  "the route stays: `accept_ra` is 2 before forwarding is on",
			prepare: func(l *lab) { l.advertise() },
			inject:  forwardAgain, within: startLimit, loses: untilRepaired, finally: acceptsAdvertisements,
		},
	}
}

// noConflict returns an error if anything of a conflict is left.
func noConflict(l *lab) error {
	if err := l.checkNoProblem(problem.RouteConflict); err != nil {
		return err
	}
	return l.joinedRouted()
}

// The three ways to add a route that shares others' key, by their names in `ip route`.
func addForeign(handle *netlink.Handle, route *netlink.Route) error { return handle.RouteAdd(route) }

func prependForeign(handle *netlink.Handle, route *netlink.Route) error {
	return handle.RouteAddEcmp(route)
}

func appendForeign(handle *netlink.Handle, route *netlink.Route) error {
	return handle.RouteAppend(route)
}

// foreignRoute adds a foreign route to the peer's pods, waits until the agent has reported it, and
// deletes it.
func (l *lab) foreignRoute(add func(*netlink.Handle, *netlink.Route) error, gateway netip.Addr, metric int) {
	l.t.Helper()
	route := &netlink.Route{
		Dst: ipNet(l.peer.Subnets[0]), Gw: gateway.AsSlice(), Priority: metric, Protocol: unix.RTPROT_BIRD,
	}
	l.must(add(l.node.Handle(), route))
	l.await(func() error { return l.checkProblem(problem.RouteConflict, gateway.String()) })
	l.must(l.checkOurs())
	l.must(l.node.Handle().RouteDel(route))
	l.repairable()
}

// fillTable gives the node routes to 50,000 networks that have nothing to do with the cluster.
func (l *lab) fillTable() {
	l.t.Helper()
	const networks = 50_000
	for i := range networks {
		to := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24)
		l.must(l.node.Handle().RouteAdd(daemonRoute(to)))
	}
}

func daemonRoute(to netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(to), Gw: netlab.Router4.AsSlice(), Protocol: unix.RTPROT_BIRD}
}

// deleteAmongFlaps has one of these routes come and go until ours is back.
func deleteAmongFlaps(l *lab) {
	const flaps = 100 // a second
	flapping := daemonRoute(netip.MustParsePrefix("198.51.100.0/24"))
	ours := l.ownRoute(l.peer.Subnets[0])
	for i := range 2 * flaps {
		if i == flaps {
			l.broken()
			l.must(l.node.Handle().RouteDel(ours))
		}
		l.must(l.node.Handle().RouteAdd(flapping))
		time.Sleep(time.Second / (2 * flaps))
		l.must(l.node.Handle().RouteDel(flapping))
		time.Sleep(time.Second / (2 * flaps))
		if i >= flaps && peerRouted(l) == nil {
			return
		}
	}
}

// ownRoute is ours to a peer's IPv4 subnet.
func (l *lab) ownRoute(to netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(to), Gw: l.peer.V4.AsSlice(), LinkIndex: l.link(uplink).Attrs().Index, Priority: int(topology.PeerMetric(to)), Protocol: netlab.Protocol,
	}
}

// peerRouted returns an error unless packets to the peer's pods go to the peer. To read the whole
// table would take longer than a repair.
func peerRouted(l *lab) error {
	routes, err := l.node.Handle().RouteGet(l.peer.Subnets[0].Addr().Next().AsSlice())
	if err != nil {
		return err
	}
	if len(routes) != 1 || !routes[0].Gw.Equal(l.peer.V4.AsSlice()) {
		return fmt.Errorf("packets to the peer's pods go by way of %v", routes)
	}
	return nil
}

// appendNextHop makes one route of two next hops out of ours to the new Node's pods, and reverts it.
func appendNextHop(l *lab) {
	hop := l.appendHop()
	time.Sleep(lapse)
	l.must(l.checkHops(netip.MustParseAddr(l.joined[0].Addresses[1]), netlab.Router6))
	l.must(l.node.Handle().RouteDel(hop))
	l.repairable()
}

func leaveNextHop(l *lab) {
	hop := l.appendHop()
	l.must(inject.DeleteNodes(l.within(limit), l.pool.Client(), l.joined[0].FakeNode))
	l.await(func() error { return l.checkHops(netlab.Router6) })
	l.must(l.node.Handle().RouteDel(hop))
	l.must(inject.CreateNodes(l.within(limit), l.pool.Client(), l.joined[0].FakeNode))
	l.repairable()
}

// appendHop adds a foreign next hop, which the kernel merges with ours, to the route to a Node that joined, and waits
// until the agent has reported it.
func (l *lab) appendHop() *netlink.Route {
	l.t.Helper()
	subnet := l.joined[0].subnets[1]
	hop := &netlink.Route{
		Dst: ipNet(subnet), Gw: netlab.Router6.AsSlice(), LinkIndex: l.link(uplink).Attrs().Index,
		Priority: topology.MetricPeer, Protocol: unix.RTPROT_BIRD,
	}
	l.await(l.joinedRouted)
	l.must(l.node.Handle().RouteAppend(hop))
	l.await(func() error { return l.checkProblem(problem.RouteConflict, subnet.String()) })
	return hop
}

// checkHops returns an error unless the gateways to the pods of the Node that joined are those
// wanted.
func (l *lab) checkHops(want ...netip.Addr) error {
	routes, err := l.node.dump(unix.AF_INET6)
	if err != nil {
		return err
	}
	var hops []netip.Addr
	for _, route := range routes {
		if route.Dst.String() != l.joined[0].subnets[1].String() {
			continue
		}
		gateways := []net.IP{route.Gw}
		for _, hop := range route.MultiPath {
			gateways = append(gateways, hop.Gw)
		}
		for _, gateway := range gateways {
			if hop, ok := netip.AddrFromSlice(gateway); ok {
				hops = append(hops, hop)
			}
		}
	}
	if slices.SortFunc(hops, netip.Addr.Compare); !slices.Equal(hops, slices.SortedFunc(slices.Values(want), netip.Addr.Compare)) {
		return fmt.Errorf("the gateways to %s are %v; want %v", l.joined[0].subnets[1], hops, want)
	}
	return nil
}

// advertise gives the node, in place of its static IPv6 default route, one from a router's advertisement (RFC 4861,
// 4.2), which is sent to it alone: other labs are on the LAN too.
func (l *lab) advertise() {
	l.t.Helper()
	l.must(l.node.Sysctl("net/ipv6/conf/"+uplink+"/accept_ra", "1"))
	l.flush(func(route netlink.Route) bool { return route.Family == unix.AF_INET6 && route.Dst.String() == "::/0" })
	l.must(l.pool.LAN.Do(func() error { return sendAdvertisement(l.linkLocal()) }))
	l.await(l.checkDefault)
}

// linkLocal is the node's link-local address on the LAN.
func (l *lab) linkLocal() net.IP {
	l.t.Helper()
	addresses, err := l.node.Handle().AddrList(l.link(uplink), unix.AF_INET6)
	l.must(err)
	for _, address := range addresses {
		if address.IP.IsLinkLocalUnicast() {
			return address.IP
		}
	}
	l.t.Fatal("the uplink has no link-local address")
	return nil
}

func sendAdvertisement(to net.IP) error {
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return fmt.Errorf("opening a raw ICMPv6 socket: %w", err)
	}
	defer conn.Close()
	if err := conn.IPv6PacketConn().SetHopLimit(255); err != nil {
		return fmt.Errorf("setting the hop limit: %w", err)
	}
	body := []byte{
		64, 0, // hop limit of senders, no flags
		0x07, 0x08, // a router for 1800 s
		0, 0, 0, 0, 0, 0, 0, 0, // timers: not specified
	}
	message := icmp.Message{Type: ipv6.ICMPTypeRouterAdvertisement, Body: &icmp.RawBody{Data: body}}
	packet, err := message.Marshal(nil)
	if err != nil {
		return fmt.Errorf("making an advertisement: %w", err)
	}
	if _, err := conn.WriteTo(packet, &net.IPAddr{IP: to, Zone: "lan0"}); err != nil {
		return fmt.Errorf("sending an advertisement: %w", err)
	}
	return nil
}

// checkDefault returns an error if the default route of the advertisement is missing.
func (l *lab) checkDefault() error {
	routes, err := l.node.dump(unix.AF_INET6)
	if err != nil {
		return err
	}
	for _, route := range routes {
		if route.Protocol == unix.RTPROT_RA && route.Dst.String() == "::/0" {
			return nil
		}
	}
	return fmt.Errorf("%s has no default route of a router's advertisement", l.node.Name)
}

// forwardAgain sets the settings as after a boot, and starts the agent.
func forwardAgain(l *lab) {
	l.must(l.node.StopAgent(unix.SIGTERM))
	l.broken()
	l.must(l.node.Sysctl("net/ipv6/conf/all/forwarding", "0"))
	l.must(l.node.Sysctl("net/ipv6/conf/"+uplink+"/accept_ra", "1"))
	l.must(l.checkDefault())
	l.repairable()
	l.must(l.node.StartAgent(l.options))
	l.must(l.node.WaitReady(l.within(limit)))
	l.must(l.checkDefault())
}

// acceptsAdvertisements checks the one setting that the agent changes for it.
func acceptsAdvertisements(l *lab) {
	const path = "ipv6/conf/" + uplink + "/accept_ra"
	now := state{}
	l.must(now.addSettings(l.node.Namespace, []string{path}))
	if want := (state{"setting " + path: "2"}); want.compare(now) != nil {
		l.t.Error(want.compare(now))
	}
}
