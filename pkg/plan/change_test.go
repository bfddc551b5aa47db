package plan

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/plainroute/plainroute/pkg/topology"
)

func some() Changes {
	route := func(s string) topology.Route {
		return topology.Route{Dst: netip.MustParsePrefix(s), Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix(s))}
	}
	return Changes{
		{Add, Bridge{topology.Device{Name: "plainroute0", Up: true}}},
		{Replace, Sysctl{"net/ipv4/ip_forward", "1"}},
		{Replace, Sysctl{"net/ipv6/conf/all/forwarding", "1"}},
		{Replace, Device{topology.Device{Name: "plainroute0", Up: true}}},
		{Replace, Device{topology.Device{Name: "veth1", Master: "plainroute0", Up: true}}},
		{Add, Address{topology.Address{Dev: "plainroute0", Prefix: netip.MustParsePrefix("10.244.1.1/24")}}},
		{Add, Sets{&SetChange{AddNodes: []netip.Addr{netip.MustParseAddr("192.168.1.2")}}}},
		{Add, Route{Route: route("10.244.2.0/24")}},
		{Add, Route{Route: route("10.244.3.0/24")}},
		{Replace, Route{Route: route("10.244.4.0/24")}},
		{Delete, Route{Route: route("10.244.5.0/24")}},
		{Delete, Sets{&SetChange{DeleteNodes: []netip.Addr{netip.MustParseAddr("192.168.1.5")}}}},
		{Add, Config{&topology.CNI{}}},
	}
}

var alike = []cmp.Option{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, topology.Route{}, topology.Address{}, topology.Device{})}

// Minus leaves out exactly the changes that are done.
func TestMinus(t *testing.T) {
	all := some()
	for i := range all {
		done := Changes{all[i]}
		if left, want := all.Minus(done), slices.Delete(slices.Clone(all), i, i+1); !slices.Equal(left, want) {
			t.Errorf("less %v it is %v", done, left)
		}
		if left := done.Minus(all[1:]); (i > 0) != left.Empty() {
			t.Errorf("%v less all but the first is %v", done, left)
		}
	}
	if left := all.Minus(all); !left.Empty() {
		t.Errorf("all less all is %+v", left)
	}
	if left := all.Minus(nil); !slices.Equal(left, all) {
		t.Errorf("all less nothing is %v", left)
	}
}

// The table is one thing, whatever of it changes.
func TestDistinct(t *testing.T) {
	all := some()
	want := slices.Delete(slices.Clone(all), 11, 12)
	if got := all.Distinct(); !slices.Equal(got, want) || len(all.Keys()) != len(want) {
		t.Errorf("got %v with keys %v", got, all.Keys())
	}
}

// What Filter and Minus return can be extended without a change of what they were given.
func TestFilterKeepsItsInput(t *testing.T) {
	address := func(s string) Object {
		return Address{topology.Address{Dev: "eth0", Prefix: netip.MustParsePrefix(s)}}
	}
	c := Of(Add, address("10.0.0.1/32"), address("10.0.0.2/32"), address("10.0.0.3/32"))
	before, other := slices.Clone(c), Change{Delete, address("10.0.0.9/32")}
	for drop := range c {
		left := c.Filter(func(x Change) bool { return x != c[drop] })
		if want := slices.Delete(slices.Clone(before), drop, drop+1); !slices.Equal(left, want) {
			t.Errorf("without the change %d there are left %v", drop, left)
		}
		_ = append(left, other)
		for n := range len(c) + 1 {
			if left := c.Minus(c[:n]); !slices.Equal(left, before[n:]) {
				t.Errorf("without the first %d there are left %v", n, left)
			}
		}
		_ = append(c.Minus(c[:drop]), other)
		_ = append(c[:2].Filter(func(Change) bool { return true }), other)
		if !slices.Equal(c, before) {
			t.Fatalf("the changes are %v, and were %v", c, before)
		}
	}
}
