package dataplane

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// bulk adds n foreign IPv4 routes /24 from 20.0.0.0 on, of which none concerns anyone.
func (m *machine) bulk(n int, via string) {
	m.t.Helper()
	s := newSocket(m.namespace, unix.NETLINK_ROUTE)
	defer s.close()
	index := m.eth0.Attrs().Index
	requests := make([]request, 0, perSend)
	for i := range n {
		r := topology.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 0}), 24), Via: netip.MustParseAddr(via), Protocol: 186}
		requests = append(requests, request{unix.RTM_NEWROUTE, unix.NLM_F_CREATE, appendRoute(nil, plan.Route{Route: r}, index, unix.RT_SCOPE_UNIVERSE)})
		if len(requests) < perSend && i < n-1 {
			continue
		}
		for _, err := range s.acknowledge(requests) {
			m.must(err)
		}
		requests = requests[:0]
	}
}

// facts are the foreign routes that are kept for the Nodes.
func (m *machine) facts(all []*topology.Node) []string {
	m.t.Helper()
	host, err := m.Facts(context.Background(), topology.Concerns(options(m), all))
	m.must(err)
	var routes []string
	for _, r := range host.Routes {
		routes = append(routes, r.String())
	}
	return routes
}

// Of others' routes those are kept that can concern a Node or a pod, and of the rest one for each
// gateway among them and each device.
func TestOnlyRelevantRoutesAreKept(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.addVeth("eth1", 1500)
	m.bulk(300, "192.168.1.1")
	kept := map[string]*rtnl.Route{
		"a part of a pod subnet":           m.foreign("10.128.1.128/25", "192.168.1.50", "eth0", 0, 4),
		"around the pod subnets":           m.foreign("10.0.0.0/8", "192.168.1.50", "eth0", 0, 4),
		"near a pod subnet":                m.foreign("10.128.200.0/24", "192.168.1.50", "eth0", 0, 4),
		"a Node's address":                 m.foreign("192.168.1.12/32", "192.168.1.50", "eth0", 0, 4),
		"a part of the world":              m.foreign("128.0.0.0/1", "192.168.1.50", "eth0", 0, 4),
		"in IPv6, a part of a pod subnet":  m.foreign("fd01:0:0:1:1::/80", "fd00:192:168:1::50", "eth0", 0, 4),
		"by another gateway among Nodes":   m.foreign("172.20.0.0/16", "192.168.1.51", "eth0", 0, 4),
		"by another device":                m.foreign("172.21.0.0/16", "", "eth1", 0, 4),
		"in IPv6, by a gateway among them": m.foreign("2001:db8::/32", "fd00:192:168:1::51", "eth0", 0, 4),
	}
	for _, r := range kept {
		m.must(m.nl.RouteAdd(r))
	}
	others := []*rtnl.Route{
		m.foreign("172.22.0.0/16", "192.168.1.51", "eth0", 0, 4), m.foreign("172.23.0.0/16", "", "eth1", 0, 4),
		m.foreign("2001:db9::/32", "fd00:192:168:1::51", "eth0", 0, 4),
	}
	for _, r := range others {
		m.must(m.nl.RouteAdd(r))
	}
	m.must(m.nl.RouteAdd(&rtnl.Route{Dst: m.foreign("172.24.0.0/16", "", "eth0", 0, 4).Dst, Type: unix.RTN_BLACKHOLE}))
	routes := m.facts(nodes(3))
	for what, r := range kept {
		if !slices.ContainsFunc(routes, func(s string) bool { return routeTo(s) == r.Dst.String() }) {
			t.Errorf("a route to %s is left out: %v", what, r)
		}
	}
	const connected, defaults, first = 2, 1, 1 // the LAN's in both families, and one of the 300
	if want := len(kept) + connected + defaults + first; len(routes) != want {
		t.Errorf("%d routes are kept, want %d: %q", len(routes), want, routes)
	}
	if host, err := m.Facts(context.Background(), nil); err != nil || len(host.Routes) < 300+len(kept)+len(others) {
		t.Errorf("of all routes %d are returned, %v", len(host.Routes), err)
	}
}

// routeTo is the destination in a route's text.
func routeTo(s string) string { r, _, _ := strings.Cut(s, " "); return r }

// Irrelevant foreign routes cause no notification and make nothing stale, however often they
// change. A change of ours reads only our own routes again.
func TestForeignFlapIsIgnored(t *testing.T) {
	m := newMachine(t)
	all := nodes(5)
	m.bulk(1000, "192.168.1.1")
	news := m.watchSettled(all)
	read := m.routes
	flap := func(times int, r *rtnl.Route) {
		for range times {
			m.must(m.nl.RouteAdd(r))
			m.must(m.nl.RouteDel(r))
		}
	}
	flap(300, m.foreign("172.30.0.0/16", "192.168.1.1", "eth0", 0, 4))
	m.must(m.nl.RouteDel(&m.ours()[0]))
	m.expect(news, "a route of ours that was deleted")
	if c := m.pass(all); count(c, plan.Add) != 1 {
		t.Errorf("after one of ours was deleted: %+v", c)
	}
	flap(300, m.foreign("172.30.0.0/16", "192.168.1.1", "eth0", 0, 4))
	m.quiet(news, "irrelevant routes")
	if m.routes != read {
		t.Error("the whole table was read for it")
	}
	if c := m.diff(all); !c.Empty() {
		t.Errorf("left to do: %+v", c)
	}
}

// A routing daemon that adds and deletes the only route by a gateway has us look once.
func TestFlapOfAnOnlyGatewayCountsOnce(t *testing.T) {
	m := newMachine(t)
	all := nodes(2)
	news := m.watchSettled(all)
	route := m.foreign("172.30.0.0/16", "192.168.1.77", "eth0", 0, 4)
	m.must(m.nl.RouteAdd(route))
	m.expect(news, "a gateway among Nodes")
	if routes := m.facts(all); !slices.ContainsFunc(routes, func(s string) bool { return routeTo(s) == "172.30.0.0/16" }) {
		t.Errorf("the first route by a gateway is left out: %q", routes)
	}
	for range 100 {
		m.must(m.nl.RouteDel(route))
		m.must(m.nl.RouteAdd(route))
	}
	m.quiet(news, "that gateway")
	m.must(m.nl.RouteDel(route))
	m.Forget() // an audit
	if routes := m.facts(all); slices.ContainsFunc(routes, func(s string) bool { return routeTo(s) == "172.30.0.0/16" }) {
		t.Errorf("a route that is gone is kept: %q", routes)
	}
}

// Nodes of another range make matter what did not.
func TestNewRangeIsReadAgain(t *testing.T) {
	m := newMachine(t)
	all := nodes(2)
	m.route("9.9.9.0/24", "192.168.1.1", "eth0", 0, 4) // comes first, so it stands for the gateway
	m.route("10.77.3.0/24", "192.168.1.1", "eth0", 0, 4)
	m.settle(all)
	if routes := m.facts(all); slices.ContainsFunc(routes, func(s string) bool { return routeTo(s) == "10.77.3.0/24" }) {
		t.Errorf("a route that concerns no Node is kept: %q", routes)
	}
	other := nodes(3)[2]
	other.PodCIDRs[0] = netip.MustParsePrefix("10.77.5.0/24")
	if routes := m.facts(append(all, other)); !slices.ContainsFunc(routes, func(s string) bool { return routeTo(s) == "10.77.3.0/24" }) {
		t.Errorf("a route beside a new Node's subnet is left out: %q", routes)
	}
	read := m.routes
	m.facts(all)
	m.facts(append(all, other))
	if m.routes != read {
		t.Error("what was known was read again")
	}
}

// Where a route of ours leads that no Node asks for any more, others' routes concern us still.
func TestRoutesWithOurKeyAreRelevant(t *testing.T) {
	m := newMachine(t)
	all := nodes(2)
	all[1].PodCIDRs[0] = netip.MustParsePrefix("10.77.5.0/24")
	m.settle(all)
	m.route("9.9.9.0/24", "192.168.1.1", "eth0", 0, 4) // comes first, so it stands for the gateway
	m.route("10.77.5.0/25", "192.168.1.1", "eth0", 0, 4)
	m.Forget()
	if routes := m.facts(all[:1]); !slices.ContainsFunc(routes, func(s string) bool { return routeTo(s) == "10.77.5.0/25" }) {
		t.Errorf("a route into a subnet of ours is left out: %q", routes)
	}
}

// If another program adds a next hop to a route of ours, all routes are stale.
func TestOverwrittenRouteIsRelevant(t *testing.T) {
	m := newMachine(t)
	all := nodes(3)
	news := m.watchSettled(all)
	r := m.ours()[1]
	r.Gw, r.Src, r.Protocol = []byte{192, 168, 1, 250}, nil, 4
	m.must(m.nl.RouteReplace(&r))
	m.expect(news, "a route overwritten in place")
	if routes := m.facts(all); !slices.ContainsFunc(routes, func(s string) bool { return routeTo(s) == r.Dst.String() }) {
		t.Errorf("a route with our key is left out: %q", routes)
	}
	if slices.ContainsFunc(m.observe().Routes, func(ours *topology.Route) bool { return ours.Dst.String() == r.Dst.String() }) {
		t.Error("a route that is gone is taken for there")
	}
}

// A route from a router advertisement shows that its link receives them, wherever it leads.
func TestAdvertisedRouteIsNoticed(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	all := nodes(2)
	gateway := "fd00:192:168:1::1"
	m.must(m.nl.RouteAdd(m.foreign("2001:db8:8::/48", gateway, "eth0", 0, 4)))
	news := m.watchSettled(all)
	m.must(m.nl.RouteAdd(m.foreign("2001:db8:9::/48", gateway, "eth0", 0, unix.RTPROT_RA)))
	m.expect(news, "an advertised route")
	host, err := m.Facts(context.Background(), topology.Concerns(options(m), all))
	m.must(err)
	if !slices.ContainsFunc(host.Links, func(l topology.Link) bool { return l.Name == "eth0" && l.RouterAdvertised }) {
		t.Errorf("eth0 does not count as receiving advertisements: %+v", host.Links)
	}
	m.must(m.nl.RouteAdd(m.foreign("2001:db8:a::/48", gateway, "eth0", 0, unix.RTPROT_RA)))
	m.quiet(news, "another advertised route")
}
