package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/topology"
)

// drawState draws States small enough that two of them often meet.
func drawState(t *rapid.T, label string) topology.State {
	s := topology.State{Sysctls: map[string]string{}}
	for i := range 6 {
		if rapid.Bool().Draw(t, label+" route") {
			s.Routes = append(s.Routes, drawRoute(t, i))
		}
	}
	if rapid.Bool().Draw(t, label+" bridge") {
		s.Bridge = "b"
	}
	s.Devices = drawDevices(t, label, s.Bridge)
	for i := range 3 {
		if rapid.Bool().Draw(t, label+" address") {
			s.Addresses = append(s.Addresses, topology.Address{Dev: "b", Prefix: netip.PrefixFrom(topology.Gateway(subnet(i)), 24)})
		}
	}
	drawTunnels(t, label, &s)
	for i := range 3 {
		if rapid.Bool().Draw(t, label+" elsewhere") {
			s.Elsewhere = append(s.Elsewhere, topology.TableRoute{Route: *drawRoute(t, i), Table: 100})
		}
	}
	if rapid.Bool().Draw(t, label+" table") {
		s.Masquerade = drawMasquerade(t)
	}
	if rapid.Bool().Draw(t, label+" CNI") {
		s.CNI = &topology.CNI{Bridge: "b", MTU: rapid.IntRange(1, 2).Draw(t, "mtu"), Subnets: []netip.Prefix{subnet(1)}}
	}
	for _, path := range []string{"net/ipv6/conf/eth0/accept_ra", topology.SysctlForward4, topology.SysctlForward6} {
		s.Sysctls[path] = rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, path)
	}
	return s
}

// drawDevices draws the bridge, if there is one, and ports in it, out of it, or elsewhere.
func drawDevices(t *rapid.T, label, bridge string) []topology.Device {
	var devices []topology.Device
	if bridge != "" {
		mtu := rapid.SampledFrom([]int{1400, 1500}).Draw(t, label+" mtu")
		devices = append(devices, topology.Device{Name: bridge, Up: rapid.Bool().Draw(t, label+" bridge up"), MTU: mtu})
	}
	for _, name := range []string{"veth1", "veth2"} {
		if rapid.Bool().Draw(t, label+" "+name) {
			devices = append(devices, topology.Device{
				Name: name, Up: rapid.Bool().Draw(t, label+" port up"),
				Master: rapid.SampledFrom([]string{"b", "", "other"}).Draw(t, label+" master"),
			})
		}
	}
	return devices
}

// drawTunnels draws a tunnel, by its own name or another, with peers, and routes by it.
func drawTunnels(t *rapid.T, label string, s *topology.State) {
	if !rapid.Bool().Draw(t, label+" tunnel") {
		return
	}
	name := rapid.SampledFrom([]string{topology.Tunnel4, "renamed"}).Draw(t, label+" name")
	s.Tunnels = []topology.Tunnel{{
		Name: name, VNI: rapid.IntRange(1, 2).Draw(t, label+" vni"), Port: 4789, Local: addr(rapid.IntRange(1, 2).Draw(t, label+" local")), MTU: 1450, Up: true,
	}}
	s.Addresses = append(s.Addresses, topology.Address{Dev: name, Prefix: netip.PrefixFrom(subnet(9).Addr(), 32)})
	slices.SortFunc(s.Addresses, topology.Address.Compare)
	for i := 6; i < 9; i++ {
		mac := topology.TunnelMAC(subnet(i))
		if rapid.Bool().Draw(t, label+" neighbor") {
			s.Neighbors = append(s.Neighbors, topology.Neighbor{Dev: name, Addr: subnet(i).Addr(), MAC: topology.MAC{2, byte(rapid.IntRange(0, 1).Draw(t, label+" mac"))}})
		}
		if rapid.Bool().Draw(t, label+" FDB entry") {
			s.FDB = append(s.FDB, topology.FDBEntry{Dev: name, MAC: mac, Dst: addr(rapid.IntRange(1, 3).Draw(t, label+" dst"))})
		}
		if rapid.Bool().Draw(t, label+" tunnel route") {
			s.Routes = append(s.Routes, &topology.Route{Dst: subnet(i), Via: subnet(i).Addr(), Dev: name, OnLink: true, Protocol: topology.Protocol, Metric: topology.PeerMetric(subnet(i))})
		}
	}
}

func subnet(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)) }
func addr(i int) netip.Addr     { return netip.MustParseAddr(fmt.Sprintf("192.168.1.%d", i)) }

func drawRoute(t *rapid.T, i int) *topology.Route {
	if rapid.Bool().Draw(t, "own") {
		return &topology.Route{Type: topology.Unreachable, Dst: subnet(i), Protocol: topology.Protocol, Metric: topology.MetricOwn}
	}
	return &topology.Route{Dst: subnet(i), Via: addr(rapid.IntRange(1, 3).Draw(t, "via")), Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(subnet(i))}
}

func drawMasquerade(t *rapid.T) *topology.Masquerade {
	m := &topology.Masquerade{Bridge: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "bridge"), Sources: []netip.Prefix{subnet(rapid.IntRange(1, 2).Draw(t, "source"))}}
	var ranges []netip.Prefix
	var endpoints []netip.Addr
	for i := range 6 {
		if rapid.Bool().Draw(t, "range") {
			ranges = append(ranges, netip.PrefixFrom(subnet(i).Addr(), rapid.IntRange(21, 24).Draw(t, "bits")).Masked())
		}
		if rapid.Bool().Draw(t, "node") {
			m.Nodes = append(m.Nodes, addr(i))
		}
		if rapid.Bool().Draw(t, "endpoint") {
			endpoints = append(endpoints, addr(i))
		}
	}
	m.Cluster = topology.Outermost(ranges)
	if rapid.Bool().Draw(t, "filter") {
		m.Tunnels = []topology.TunnelFilter{{Dev: topology.Tunnel4, VNI: rapid.IntRange(1, 2).Draw(t, "vni"), Port: 4789, Own: subnet(9)}}
		m.Endpoints = endpoints
	}
	return m
}

// apply makes the Changes as the kernel would, and calls watch before the first route is made, and
// then after each change.
func apply(t *rapid.T, s topology.State, c Changes, watch func(topology.State)) topology.State {
	s.Sysctls = map[string]string{}
	s.Devices, s.Addresses, s.Routes = slices.Clone(s.Devices), slices.Clone(s.Addresses), slices.Clone(s.Routes)
	s.Tunnels, s.Neighbors, s.FDB = slices.Clone(s.Tunnels), slices.Clone(s.Neighbors), slices.Clone(s.FDB)
	s.Elsewhere = slices.Clone(s.Elsewhere)
	before, rest := c.BeforeRoutes()
	for _, x := range before {
		applyOne(t, &s, x)
	}
	watch(s)
	for _, x := range rest {
		applyOne(t, &s, x)
		watch(s)
	}
	return s
}

// applyOne fails as the kernel does on what is not there, or there already.
func applyOne(t *rapid.T, s *topology.State, c Change) {
	switch o := c.Object.(type) {
	case Bridge:
		if (s.Bridge != "") != (c.Op == Delete) || c.Op == Delete && o.Device.Name != s.Bridge {
			t.Fatalf("%s, and %q is there", c, s.Bridge)
		}
		if c.Op == Delete {
			s.Devices, s.Bridge = slices.DeleteFunc(s.Devices, func(d topology.Device) bool { return d.Name == s.Bridge }), ""
			return
		}
		s.Bridge = o.Device.Name
		s.Devices = slices.Insert(s.Devices, 0, topology.Device{Name: s.Bridge, MTU: o.Device.MTU})
	case MTU:
		i := slices.IndexFunc(s.Devices, func(d topology.Device) bool { return d.Name == o.Dev })
		if i < 0 || s.Devices[i].MTU == o.Bytes || o.Bytes == 0 {
			t.Fatalf("%s, and there are %v", c, s.Devices)
		}
		s.Devices[i].MTU = o.Bytes
	case Device:
		setDevices(t, s.Devices, []topology.Device{o.Device})
	case Sysctl:
		s.Sysctls[o.Path] = o.Value
	case Address:
		s.Addresses = applySorted(t, c, s.Addresses, o.Address, topology.Address.Compare)
	case Tunnel:
		switch {
		case c.Op == Delete && onDevice(s, o.Name) > 0:
			t.Fatalf("%s, and something is on it: %+v", c, s)
		case o.Recreates():
			takeDevice(s, o.Was.Name)
		}
		s.Tunnels = applySorted(t, c, s.Tunnels, o.Tunnel, topology.Tunnel.Compare)
	case Neighbor:
		s.Neighbors = applySorted(t, c, s.Neighbors, o.Neighbor, topology.Neighbor.Compare)
	case FDBEntry:
		s.FDB = applySorted(t, c, s.FDB, o.FDBEntry, topology.FDBEntry.Compare)
	case Route:
		s.Routes = applyRoute(t, c, s.Routes, &o.Route)
	case StrayRoute:
		s.Elsewhere = applySorted(t, c, s.Elsewhere, o.TableRoute, topology.TableRoute.Compare)
	case Table:
		if s.Masquerade = o.Masquerade; c.Op == Delete {
			s.Masquerade = nil
		}
	case Sets:
		s.Masquerade = changeSets(t, s.Masquerade, *o.SetChange)
	case Config:
		if s.CNI = o.CNI; c.Op == Delete {
			s.CNI = nil
		}
	default:
		t.Fatalf("what is %s?", c)
	}
}

// takeDevice deletes what is on a device.
func takeDevice(s *topology.State, dev string) {
	s.Addresses = without(s.Addresses, func(a topology.Address) bool { return a.Dev == dev })
	s.Neighbors = without(s.Neighbors, func(n topology.Neighbor) bool { return n.Dev == dev })
	s.FDB = without(s.FDB, func(e topology.FDBEntry) bool { return e.Dev == dev })
	s.Routes = without(s.Routes, func(r *topology.Route) bool { return r.Dev == dev })
}

func onDevice(s *topology.State, dev string) int {
	left := *s
	takeDevice(&left, dev)
	count := func(s *topology.State) int { return len(s.Addresses) + len(s.Neighbors) + len(s.FDB) + len(s.Routes) }
	return count(s) - count(&left)
}

func applyRoute(t *rapid.T, c Change, all []*topology.Route, r *topology.Route) []*topology.Route {
	if have := topology.RouteTo(all, r.Dst, r.Metric); have != nil && *have == *r {
		r = have
	}
	return applySorted(t, c, all, r, topology.CompareRoutes)
}

func applySorted[T comparable](t *rapid.T, c Change, all []T, x T, compare func(T, T) int) []T {
	i, there := slices.BinarySearchFunc(all, x, compare)
	switch {
	case there != (c.Op != Add), c.Op == Delete && all[i] != x:
		t.Fatalf("%s, and there are %v", c, all)
	case c.Op == Add:
		return slices.Insert(all, i, x)
	case c.Op == Delete:
		return slices.Delete(all, i, i+1)
	}
	all[i] = x
	return all
}

// setDevices fails as the kernel does on devices that are not there.
func setDevices(t *rapid.T, devices, changes []topology.Device) {
	for _, d := range changes {
		i := slices.IndexFunc(devices, func(have topology.Device) bool { return have.Name == d.Name })
		if i < 0 {
			t.Fatalf("%v is not there", d)
		}
		d.MTU = devices[i].MTU // which is another change
		devices[i] = d
	}
}

// changeSets fails as the kernel does: on overlaps, and on what is not there.
func changeSets(t *rapid.T, m *topology.Masquerade, c SetChange) *topology.Masquerade {
	after := *m
	after.Cluster = slices.DeleteFunc(slices.Clone(m.Cluster), func(p netip.Prefix) bool { return slices.Contains(c.DeleteCluster, p) })
	after.Nodes = slices.DeleteFunc(slices.Clone(m.Nodes), func(a netip.Addr) bool { return slices.Contains(c.DeleteNodes, a) })
	if len(m.Cluster)-len(after.Cluster) != len(c.DeleteCluster) || len(m.Nodes)-len(after.Nodes) != len(c.DeleteNodes) {
		t.Fatalf("deleting what is not there: %+v from %+v", c, m)
	}
	for _, p := range c.AddCluster {
		if slices.ContainsFunc(after.Cluster, p.Overlaps) {
			t.Fatalf("%v overlaps %v", p, after.Cluster)
		}
		after.Cluster = append(after.Cluster, p)
	}
	after.Endpoints = slices.DeleteFunc(slices.Clone(m.Endpoints), func(a netip.Addr) bool { return slices.Contains(c.DeleteEndpoints, a) })
	if len(m.Endpoints)-len(after.Endpoints) != len(c.DeleteEndpoints) {
		t.Fatalf("deleting what is not there: %+v from %+v", c, m)
	}
	after.Endpoints = append(after.Endpoints, c.AddEndpoints...)
	slices.SortFunc(after.Endpoints, netip.Addr.Compare)
	after.Nodes = append(after.Nodes, c.AddNodes...)
	slices.SortFunc(after.Cluster, topology.ComparePrefix)
	slices.SortFunc(after.Nodes, netip.Addr.Compare)
	return &after
}

func TestApplyingTheDifferenceGivesTheDesired(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		desired, actual := drawState(t, "desired"), drawState(t, "actual")
		changes := Diff(desired, actual)
		got := apply(t, actual, changes, func(topology.State) {})
		if !slices.EqualFunc(got.Routes, desired.Routes, topology.SameRoute) || !slices.Equal(got.Addresses, desired.Addresses) || !slices.Equal(got.Tunnels, desired.Tunnels) ||
			!slices.Equal(got.Neighbors, desired.Neighbors) || !slices.Equal(got.FDB, desired.FDB) || !got.CNI.Equal(desired.CNI) || !sameTable(got.Masquerade, desired.Masquerade) {
			t.Fatalf("got %+v\nwant %+v\nby %+v", got, desired, changes)
		}
		if want := desired.Bridge; got.Bridge != want {
			t.Fatalf("the bridge is %q; want %q", got.Bridge, want)
		}
		for _, d := range got.Devices {
			if i := slices.IndexFunc(desired.Devices, func(want topology.Device) bool { return want.Name == d.Name }); i >= 0 && !d.Like(desired.Devices[i]) {
				t.Fatalf("%v is not as desired: %v", d, desired.Devices[i])
			}
		}
		for path, value := range desired.Sysctls {
			if actual.Sysctls[path] != value && got.Sysctls[path] != value {
				t.Fatalf("%s is not set", path)
			}
		}
	})
}

func sameTable(a, b *topology.Masquerade) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.SameRules(b) && slices.Equal(a.Cluster, b.Cluster) && slices.Equal(a.Nodes, b.Nodes) && slices.Equal(a.Endpoints, b.Endpoints)
}

func TestDiffOfTheSameIsEmpty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawState(t, "same")
		if c := Diff(s, s); !c.Empty() {
			t.Fatalf("%+v", c)
		}
	})
}

// TestARoutedDestinationIsInTheSets: a NAT binding outlives the rule that made
// it, so whatever has a route, before or after, is in the sets meanwhile.
func TestARoutedDestinationIsInTheSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		desired, actual := drawState(t, "desired"), drawState(t, "actual")
		for _, s := range []*topology.State{&desired, &actual} {
			s.Masquerade = &topology.Masquerade{Bridge: "b", Sources: []netip.Prefix{subnet(9)}}
			for _, r := range s.Routes {
				s.Masquerade.Cluster = append(s.Masquerade.Cluster, r.Dst)
			}
		}
		apply(t, actual, Diff(desired, actual), func(s topology.State) {
			for _, r := range s.Routes {
				if !slices.Contains(s.Masquerade.Cluster, r.Dst) {
					t.Fatalf("%v has a route and would be masqueraded: %v", r.Dst, s.Masquerade.Cluster)
				}
			}
		})
	})
}

func TestZeroStateRemovesAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		actual := drawState(t, "actual")
		got := apply(t, actual, Diff(topology.State{}, actual), func(topology.State) {})
		if len(got.Routes)+len(got.Elsewhere)+len(got.Addresses)+len(got.Tunnels)+len(got.Neighbors)+len(got.FDB) > 0 || got.Bridge != "" || got.Masquerade != nil || got.CNI != nil {
			t.Fatalf("left: %+v", got)
		}
	})
}

func TestWithoutRemovalsTakesNothingAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		desired, actual := drawState(t, "desired"), drawState(t, "actual")
		c := Diff(desired, actual).WithoutRemovals()
		if c.Removes() {
			t.Fatalf("%+v", c)
		}
		got := apply(t, actual, c, func(topology.State) {})
		recreated := slices.ContainsFunc(Objects[Tunnel](c, Replace), Tunnel.Recreates)
		for _, r := range actual.Routes {
			if _, there := slices.BinarySearchFunc(got.Routes, r, topology.CompareRoutes); !there && (!recreated || !r.OnLink) {
				t.Fatalf("%v is gone", r)
			}
		}
		if got.Masquerade == nil && actual.Masquerade != nil {
			t.Fatal("the table is gone")
		}
	})
}

func TestAcceptRAComesBeforeForwarding(t *testing.T) {
	c := Diff(topology.State{Sysctls: map[string]string{
		topology.SysctlForward6: "1", "net/ipv6/conf/zzz/accept_ra": "2", topology.SysctlForward4: "1",
	}}, topology.State{})
	want := Of(Replace, Sysctl{"net/ipv6/conf/zzz/accept_ra", "2"}, Sysctl{topology.SysctlForward4, "1"}, Sysctl{topology.SysctlForward6, "1"})
	if !slices.Equal(c, want) {
		t.Errorf("got %v, want %v", c, want)
	}
}

// A port that was deleted with its pod since it was desired is not a change.
func TestAPortThatIsGoneIsNoChange(t *testing.T) {
	bridge := topology.Device{Name: "b", Up: true}
	before := topology.State{Bridge: "b", Devices: []topology.Device{bridge, {Name: "veth1", Master: "b", Up: true}}}
	now := topology.State{Bridge: "b", Devices: []topology.Device{bridge, {Name: "veth2", Master: "b", Up: true}}}
	if c := Diff(before, now); !c.Empty() {
		t.Errorf("%+v", c)
	}
}

func BenchmarkDiff(b *testing.B) {
	var s topology.State
	s.Masquerade = &topology.Masquerade{Bridge: "b", Sources: []netip.Prefix{subnet(1)}, Cluster: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for i := range 5000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		s.Routes = append(s.Routes, &topology.Route{Dst: p, Via: netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)}), Dev: "eth0", Metric: topology.PeerMetric(p)})
		s.Masquerade.Nodes = append(s.Masquerade.Nodes, s.Routes[i].Via)
	}
	other := s
	other.Routes = slices.Delete(slices.Clone(s.Routes), 77, 78)
	b.ReportAllocs()
	for b.Loop() {
		Diff(s, other)
	}
}

// A table that no longer serves a family has no sets of it, so nothing is taken out of those.
func TestTableLosesAFamily(t *testing.T) {
	v6 := netip.MustParsePrefix("fd00:10:244:1::/64")
	dual := &topology.Masquerade{
		Bridge: "b", Sources: []netip.Prefix{subnet(1), v6}, Cluster: []netip.Prefix{subnet(1), subnet(2), v6},
		Nodes: []netip.Addr{netip.MustParseAddr("192.168.1.12"), netip.MustParseAddr("fd00::12")},
	}
	single := &topology.Masquerade{Bridge: "b", Sources: dual.Sources[:1], Cluster: []netip.Prefix{subnet(1)}}
	c := Diff(topology.State{Masquerade: single}, topology.State{Masquerade: dual})
	wide := *single
	wide.Cluster, wide.Nodes = dual.Cluster[:2], dual.Nodes[:1]
	want := Changes{{Replace, Table{&wide}}, {Delete, Sets{&SetChange{DeleteCluster: []netip.Prefix{subnet(2)}, DeleteNodes: dual.Nodes[:1]}}}}
	if diff := cmp.Diff(want, c, alike...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Another program may have added its next hop after the host was read, and before our routes were.
func TestSharedRouteIsNotReplaced(t *testing.T) {
	want := topology.Route{Dst: netip.MustParsePrefix("fd00:10:244:2::/64"), Via: netip.MustParseAddr("fd00::12"), Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix("fd00:10:244:2::/64"))}
	have := want
	have.Shared = true
	if c := Diff(topology.State{Routes: []*topology.Route{&want}}, topology.State{Routes: []*topology.Route{&have}}); !c.Empty() {
		t.Errorf("%v", c)
	}
	if c := Diff(topology.State{}, topology.State{Routes: []*topology.Route{&have}}); len(c) != 1 || c[0].Op != Delete {
		t.Errorf("%v", c)
	}
}
