package faults

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// viewFaults change what a node looks like, and nothing in Nodes: what is in place must stay.
func viewFaults() []fault {
	return []fault{
		viewed("a peer's InternalIPs come up on kube-ipvs0, as a Service's externalIPs do", addressesOfThePeer),
		viewed("the uplink's connected routes are deleted and put back", connectedRoutesAway),
		viewed("addresses in a peer's and in our own pod subnet come up on a device", addressesOfPods),
		viewed("a host route to a VPN by way of a local pod comes and goes", routeByPod),
	}
}

// viewed is a change that must not move any route of ours.
func viewed(name string, do func(*lab)) fault {
	return fault{
		name: name, answer: "no route moves, and what this host has against one is reported",
		inject: func(l *lab) {
			if l.watches == nil {
				l.observe()
			}
			do(l)
			l.repairable()
		},
		finally:  func(l *lab) { l.checkUnmoved() },
		repaired: clearView, times: 2, within: healLimit, loses: nothing,
	}
}

// clearView returns the problems that the agent still reports about this host.
func clearView(l *lab) error {
	return errors.Join(l.checkNoProblem(problem.RouteKept), l.checkNoProblem(problem.RangeOverlap), l.node.ready(l), l.checkOurs())
}

// foreignDevice makes a device with addresses of its own, each alone.
func (l *lab) foreignDevice(name string, addresses ...netip.Addr) netlink.Link {
	l.t.Helper()
	l.must(l.node.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	device := l.link(name)
	for _, address := range addresses {
		single := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, address.BitLen()))}
		if address.Is6() {
			single.Flags = unix.IFA_F_NODAD
		}
		l.must(l.node.Handle().AddrAdd(device, single))
	}
	return device
}

// addressesOfThePeer (own-address-elsewhere) acts as kube-proxy in its IPVS mode, including its ARP setting.
func addressesOfThePeer(l *lab) {
	const ignore = "net/ipv4/conf/" + uplink + "/arp_ignore"
	l.must(l.node.Sysctl(ignore, "1"))
	device := l.foreignDevice("kube-ipvs0", l.peer.Addrs()...)
	for _, address := range l.peer.Addrs() {
		l.await(func() error { return l.checkProblem(problem.RouteKept, address.String()) })
	}
	l.must(l.checkProblem(problem.RouteKept, "kube-ipvs0"))
	l.must(l.checkProblem(problem.RouteKept, "externalIPs"))
	l.run(after)
	l.must(l.checkOurs())
	l.must(l.node.Handle().LinkDel(device))
	l.must(l.node.Sysctl(ignore, "0"))
}

// connectedRoutesAway acts as a network manager that replaces an address's routes.
func connectedRoutesAway(l *lab) {
	var away []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := l.node.dump(family)
		l.must(err)
		for _, route := range routes {
			connected := route.Table == unix.RT_TABLE_MAIN && route.Protocol == unix.RTPROT_KERNEL && route.Gw == nil
			if connected && route.LinkIndex == l.link(uplink).Attrs().Index && !route.Dst.IP.IsLinkLocalUnicast() && !route.Dst.IP.IsMulticast() {
				away = append(away, route)
			}
		}
	}
	if len(away) != 2 {
		l.t.Fatalf("the uplink has the connected routes %v; want one of each family", away)
	}
	for i := range away {
		l.must(l.node.Handle().RouteDel(&away[i]))
	}
	for _, address := range l.peer.Addrs() {
		l.await(func() error { return l.checkProblem(problem.RouteKept, address.String()) })
	}
	l.run(after)
	l.must(l.checkOurs())
	for i := range away {
		l.must(l.node.Handle().RouteAdd(&away[i]))
	}
}

// addressesOfPods takes addresses that no pod has.
func addressesOfPods(l *lab) {
	var addresses []netip.Addr
	for _, subnet := range slices.Concat(l.node.Subnets, l.peer.Subnets) {
		addresses = append(addresses, topology.Last(subnet).Prev())
	}
	device := l.foreignDevice("other0", addresses...)
	for _, address := range addresses {
		l.await(func() error { return l.checkProblem(problem.RangeOverlap, address.String()) })
	}
	l.run(after)
	l.must(l.node.ready(l))
	l.must(l.checkOurs())
	l.must(l.node.Handle().LinkDel(device))
}

// routeByPod is nothing that the agent has anything against.
func routeByPod(l *lab) {
	var routes []*netlink.Route
	for i, destination := range []string{"10.8.0.0/24", "fd00:10:8::/64"} {
		routes = append(routes, &netlink.Route{
			Dst: ipNet(netip.MustParsePrefix(destination)), Gw: l.pods[0].Addrs()[i].AsSlice(), Protocol: unix.RTPROT_STATIC,
		})
		l.must(l.node.Handle().RouteAdd(routes[i]))
	}
	l.run(after)
	l.must(clearView(l))
	l.must(l.checkNoProblem(problem.PodCIDRRefused))
	l.must(l.checkNoProblem(problem.SubnetChanged))
	for _, route := range routes {
		l.must(l.node.Handle().RouteDel(route))
	}
}
