package plan

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A missing Object that was desired before was deleted by another program; a newly desired one was
// not.
func TestRepairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		desired, actual := drawState(t, "desired"), drawState(t, "actual")
		changes := Diff(desired, actual)
		if keys := changes.Repairs(desired, desired); len(keys) != len(changes.Keys()) {
			t.Fatalf("of %+v only %v are repairs", changes, keys)
		}
		before := drawState(t, "before")
		for _, k := range changes.Repairs(before, desired) {
			remade := len(Diff(desired, before).Only(KindTunnel)) > 0 // what is on a tunnel is asked for again with it
			if slices.Contains(Diff(desired, before).Keys(), k) && !remade {
				t.Fatalf("%v was not asked for before, and counts as a repair", k)
			}
		}
	})
}

// madeOn reports whether a Key is of a Change that needs the device which the dropped one makes.
func madeOn(changes Changes, dropped, key Key) bool {
	for _, x := range changes {
		if x.Key() != dropped || x.makes() == "" {
			continue
		}
		if slices.ContainsFunc(changes, func(y Change) bool { return y.Key() == key && y.needs(x.makes()) }) {
			return true
		}
	}
	return false
}

func TestWithout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		changes := Diff(drawState(t, "desired"), drawState(t, "actual"))
		keys := changes.Keys()
		if len(keys) == 0 {
			t.Skip("nothing changes")
		}
		dropped := rapid.SampledFrom(keys).Draw(t, "dropped")
		left := changes.Without(func(k Key) bool { return k == dropped }).Keys()
		for _, k := range keys {
			if madeOn(changes, dropped, k) {
				continue // can't be done without the device
			}
			if k.Kind == KindRoute && strings.HasSuffix(k.Name, "table 100") && slices.ContainsFunc(changes, func(x Change) bool { return x.Key() == dropped && (x.putsRoute() || x.carriesRoutes()) }) {
				continue // waits for the routes that take its place
			}
			stays := k != dropped || k == tableKey && slices.ContainsFunc(changes, Change.putsRoute)
			if slices.Contains(left, k) != stays {
				t.Fatalf("without %v, %v is left", dropped, left)
			}
		}
		if !changes.Without(func(Key) bool { return true }).Empty() {
			t.Fatal("without anything, something is left")
		}
	})
}

// While the making of the bridge waits, so does all that needs it, and nothing else.
func TestWithoutTheBridgeNothingOfItIsMade(t *testing.T) {
	own, other := Sysctl{"net/ipv6/conf/b/disable_ipv6", "0"}, Sysctl{"net/ipv6/conf/b2/forwarding", "1"}
	bridge, route := topology.Device{Name: "b", Up: true}, Route{Route: topology.Route{Dst: subnet(2)}}
	c := Of(Add, Bridge{bridge}, Address{topology.Address{Dev: "b", Prefix: subnet(1)}}, route).
		With(Of(Replace, Device{bridge}, Device{topology.Device{Name: "veth1", Master: "b", Up: true}}, own, other)...)
	left := c.Without(func(k Key) bool { return k.Kind == KindBridge })
	if want := (Changes{{Replace, other}, {Add, route}}); !slices.Equal(left, want) {
		t.Errorf("left %v; want %v", left, want)
	}
}

// Another Node's route is not a repair of the one that had its key.
func TestRouteOfAnotherNodeIsNoRepair(t *testing.T) {
	route := topology.Route{Dst: subnet(1), Via: addr(1), Protocol: topology.Protocol, Metric: topology.PeerMetric(subnet(1))}
	other := route
	other.Via = addr(2)
	before, desired := topology.State{Routes: []*topology.Route{&route}}, topology.State{Routes: []*topology.Route{&other}}
	if keys := Diff(desired, before).Repairs(before, desired); len(keys) != 0 {
		t.Errorf("got %v", keys)
	}
}

// A destination is in the sets before its route is there, also while another program keeps changing
// the table.
func TestAContestedTableGoesWithNewRoutes(t *testing.T) {
	contested := func(k Key) bool { return k == tableKey }
	rapid.Check(t, func(t *rapid.T) {
		actual, desired := drawState(t, "actual"), drawState(t, "desired")
		changes := Diff(desired, actual)
		held := changes.Without(contested)
		routes := slices.ContainsFunc(changes, Change.putsRoute)
		if routes && !slices.Equal(held, changes) {
			t.Fatalf("routes go in without the table: %+v", held)
		}
		if !routes && held.Has(KindTable) {
			t.Fatalf("nothing needs the table, and it does not wait: %+v", held)
		}
	})
}
