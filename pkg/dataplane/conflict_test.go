package dataplane

import (
	"net/netip"
	"slices"
	"testing"

	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A next hop that another program appends to ours in IPv6 makes one route of both, with our
// protocol.
func TestAppendedNextHop(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	all := nodes(2)
	news := m.watchSettled(all)
	subnet := all[1].PodCIDRs[1]
	theirs := m.foreign(subnet.String(), "fd00:192:168:1::99", "eth0", topology.MetricPeer, 4)
	m.must(m.nl.RouteAppend(theirs))
	m.expect(news, "an appended next hop")
	if c := m.diff(all); c.Has(plan.KindRoute) {
		t.Errorf("beside an appended next hop: %+v", c)
	}
	want := []string{"fd00:192:168:1::12", "fd00:192:168:1::99"}
	if got := m.gateways(subnet); !slices.Equal(got, want) {
		t.Fatalf("next hops are %v, want %v", got, want)
	}

	m.must(m.nl.RouteDel(theirs))
	m.expect(news, "a next hop deleted")
	if c := m.diff(all); !c.Empty() {
		t.Errorf("with the next hop gone: %+v", c)
	}
	if got := m.gateways(subnet); !slices.Equal(got, want[:1]) {
		t.Errorf("next hops are %v, want ours", got)
	}

	m.must(m.nl.RouteAppend(theirs))
	m.settle(all[:1])
	if got := m.gateways(subnet); !slices.Equal(got, want[1:]) {
		t.Errorf("without the Node next hops are %v, want theirs", got)
	}
}

// With an appended next hop, a Node's new address can't replace the old one, because that would
// replace the appended one too: ours is deleted, and the other is reported.
func TestAddressChangeBesideAnAppendedNextHop(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	all := nodes(2)
	m.settle(all)
	theirs := m.foreign(all[1].PodCIDRs[1].String(), "fd00:192:168:1::99", "eth0", topology.MetricPeer, 4)
	m.must(m.nl.RouteAppend(theirs))
	all[1].Addrs[1] = netip.MustParseAddr("fd00:192:168:1::77")
	m.settle(all)
	if got := m.gateways(all[1].PodCIDRs[1]); !slices.Equal(got, []string{"fd00:192:168:1::99"}) {
		t.Errorf("next hops are %v, want theirs alone", got)
	}
	m.must(m.nl.RouteDel(theirs))
	m.settle(all)
	if got := m.gateways(all[1].PodCIDRs[1]); !slices.Equal(got, []string{"fd00:192:168:1::77"}) {
		t.Errorf("next hops are %v, want ours", got)
	}
}

// In IPv4 the kernel keeps routes of one key in a list, and takes the first.
// Ours stays in a shared route, and the other next hop is never changed.
func TestForeignRouteBesideOurs(t *testing.T) {
	for name, join := range map[string]func(*machine, *rtnl.Route) error{
		"appended":  func(m *machine, r *rtnl.Route) error { return m.nl.RouteAppend(r) },
		"prepended": func(m *machine, r *rtnl.Route) error { return m.nl.RouteAddEcmp(r) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			all := nodes(2)
			m.settle(all)
			subnet := all[1].PodCIDRs[0]
			m.must(join(m, m.foreign(subnet.String(), "192.168.1.99", "eth0", int(topology.PeerMetric(subnet)), 4)))
			before := m.foreignRoutes()
			m.settle(all)
			if n := len(m.gateways(subnet)); n != 2 {
				t.Fatalf("%d routes, want ours and theirs", n)
			}
			all[1].Addrs[0] = netip.MustParseAddr("192.168.1.77")
			m.settle(all)
			m.settle(all[:1])
			if after := m.foreignRoutes(); !slices.Equal(before, after) {
				t.Errorf("foreign routes changed:\n%v\n%v", before, after)
			}
			if got := m.gateways(subnet); !slices.Equal(got, []string{"192.168.1.99"}) {
				t.Errorf("gateways are %v, want theirs", got)
			}
		})
	}
}

// gateways lists those of all routes to a subnet, sorted.
func (m *machine) gateways(subnet netip.Prefix) []string {
	m.t.Helper()
	routes, err := m.nl.RouteListFiltered(rtnl.FAMILY_ALL, &rtnl.Route{Dst: ipNet(subnet)}, rtnl.RT_FILTER_DST)
	m.must(err)
	var all []string
	for _, r := range routes {
		if len(r.MultiPath) == 0 {
			all = append(all, r.Gw.String())
		}
		for _, hop := range r.MultiPath {
			all = append(all, hop.Gw.String())
		}
	}
	slices.Sort(all)
	return all
}
