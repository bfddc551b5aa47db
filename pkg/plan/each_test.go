package plan

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A lone change is Changes with one field set, and what is to be said of it.
type lone struct {
	changes Changes
	keys    string // in the words of Key.String, with commas
	tally   Tally
	removes bool // it waits where removals wait
	config  bool // it is about the CNI config alone
}

var (
	aPrefix  = netip.MustParsePrefix("10.244.7.0/24")
	anAddr   = netip.MustParseAddr("192.168.1.7")
	aRoute   = topology.Route{Dst: aPrefix, Via: anAddr, Dev: "eth0", Protocol: topology.Protocol, Metric: topology.MetricPeer}
	aDevice  = topology.Device{Name: "plainroute0", Up: true}
	anOrigin = topology.Address{Dev: "plainroute0", Prefix: netip.MustParsePrefix("10.244.7.1/24")}
)

// lones has each field of Changes, by its name.
var lones = map[string]lone{
	"AddBridge":       {Changes{AddBridge: &aDevice}, "bridge plainroute0", Tally{Devices: 1}, false, false},
	"Sysctls":         {Changes{Sysctls: []Sysctl{{"net/ipv4/ip_forward", "1"}}}, "sysctl net/ipv4/ip_forward", Tally{Sysctls: 1}, false, false},
	"SetDevices":      {Changes{SetDevices: []topology.Device{aDevice}}, "device plainroute0", Tally{Devices: 1}, false, false},
	"AddAddresses":    {Changes{AddAddresses: []topology.Address{anOrigin}}, "address 10.244.7.1/24 dev plainroute0", Tally{Addresses: 1}, false, false},
	"Table":           {Changes{Table: &topology.Masquerade{}}, "nftables table plainroute", Tally{Tables: 1}, false, false},
	"Widen":           {Changes{Widen: SetChange{AddNodes: []netip.Addr{anAddr}}}, "nftables table plainroute", Tally{Tables: 1}, false, false},
	"Add":             {Changes{Add: []topology.Route{aRoute}}, "route 10.244.7.0/24", Tally{Added: 1}, false, false},
	"Replace":         {Changes{Replace: []topology.Route{aRoute}}, "route 10.244.7.0/24", Tally{Replaced: 1}, false, false},
	"Delete":          {Changes{Delete: []topology.Route{aRoute}}, "route 10.244.7.0/24", Tally{Deleted: 1}, true, false},
	"DeleteAddresses": {Changes{DeleteAddresses: []topology.Address{anOrigin}}, "address 10.244.7.1/24 dev plainroute0", Tally{Addresses: 1}, true, false},
	"DeleteBridge":    {Changes{DeleteBridge: "plainroute0"}, "bridge plainroute0", Tally{}, true, false},
	"Narrow":          {Changes{Narrow: SetChange{DeleteCluster: []netip.Prefix{aPrefix}}}, "nftables table plainroute", Tally{Tables: 1}, true, false},
	"DeleteTable":     {Changes{DeleteTable: true}, "nftables table plainroute", Tally{Tables: 1}, true, false},
	"CNI":             {Changes{CNI: &topology.CNI{}}, "CNI config 10-plainroute.conflist", Tally{Configs: 1}, false, true},
	"DeleteCNI":       {Changes{DeleteCNI: true}, "CNI config 10-plainroute.conflist", Tally{Configs: 1}, true, true},
}

// Each field of Changes by itself is seen by all that looks at Changes; a new field needs a row.
func TestEachChangeAlone(t *testing.T) {
	fields := reflect.TypeFor[Changes]()
	for i := range fields.NumField() {
		if name := fields.Field(i).Name; reflect.ValueOf(lones[name].changes).Field(i).IsZero() {
			t.Errorf("%s has no row", name)
		}
	}
	for name, l := range lones {
		c := l.changes
		keys := c.Keys()
		if len(keys) != 1 || keys[0].String() != l.keys {
			t.Errorf("%s: keys are %v, want %s", name, keys, l.keys)
		}
		for what, is := range map[string][2]bool{
			"empty":                       {c.Empty(), false},
			"empty but for the config":    {c.KernelEmpty(), l.config},
			"about the config":            {c.TouchesCNI(), l.config},
			"removing":                    {c.Removes(), l.removes},
			"empty without removals":      {c.WithoutRemovals().Empty(), l.removes},
			"empty without the config":    {c.WithoutCNI().Empty(), l.config},
			"empty with the config alone": {c.OnlyCNI().Empty(), !l.config},
			"empty less itself":           {c.Minus(c).Empty(), true},
			"empty without its key":       {c.Without(func(k Key) bool { return k == keys[0] }).Empty(), true},
			"empty without other keys":    {c.Without(func(k Key) bool { return k != keys[0] }).Empty(), false},
		} {
			if is[0] != is[1] {
				t.Errorf("%s is %s: %v, want %v", name, what, is[0], is[1])
			}
		}
		if got := c.Tally(); got != l.tally {
			t.Errorf("%s: the tally is %+v, want %+v", name, got, l.tally)
		}
		if diff := cmp.Diff(c, c.Minus(Changes{}), alike...); diff != "" {
			t.Errorf("%s less nothing (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(c, c.WithoutBridge(), alike...); diff != "" && name != "AddBridge" {
			t.Errorf("%s where no bridge is made (-want +got):\n%s", name, diff)
		}
	}
}

// Two changes don't make up for each other.
func TestEachPairOfChanges(t *testing.T) {
	for one := range lones {
		for other := range lones {
			c := lones[one].changes
			field := reflect.ValueOf(&c).Elem().FieldByName(other)
			field.Set(reflect.ValueOf(lones[other].changes).FieldByName(other))
			if c.Empty() || c.KernelEmpty() != (lones[one].config && lones[other].config) || c.Removes() != (lones[one].removes || lones[other].removes) {
				t.Errorf("%s and %s: empty %v, but for the config %v, removing %v", one, other, c.Empty(), c.KernelEmpty(), c.Removes())
			}
		}
	}
	for _, s := range []SetChange{
		{AddCluster: []netip.Prefix{aPrefix}, DeleteCluster: []netip.Prefix{aPrefix}},
		{AddCluster: []netip.Prefix{aPrefix}, DeleteNodes: []netip.Addr{anAddr}},
		{AddCluster: []netip.Prefix{aPrefix}, AddNodes: []netip.Addr{anAddr}},
		{DeleteNodes: []netip.Addr{anAddr}, AddNodes: []netip.Addr{anAddr}},
	} {
		if s.Empty() {
			t.Errorf("%+v counts as empty", s)
		}
	}
}

// Each sort of change of a set by itself is one.
func TestEachSetChangeAlone(t *testing.T) {
	for _, s := range []SetChange{
		{AddCluster: []netip.Prefix{aPrefix}},
		{DeleteCluster: []netip.Prefix{aPrefix}},
		{AddNodes: []netip.Addr{anAddr}},
		{DeleteNodes: []netip.Addr{anAddr}},
	} {
		if s.Empty() {
			t.Errorf("%+v counts as empty", s)
		}
	}
	if !(SetChange{}).Empty() {
		t.Error("nothing counts as a change")
	}
}

// A repair of each sort is named by the key of what is repaired, and is none where another thing was asked for before.
func TestEachRepairIsNamed(t *testing.T) {
	table := &topology.Masquerade{Bridge: "plainroute0", Sources: []netip.Prefix{aPrefix}, Cluster: []netip.Prefix{aPrefix}, Nodes: []netip.Addr{anAddr}}
	desired := topology.State{
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1"}, Bridge: "plainroute0", Devices: []topology.Device{aDevice},
		Addresses: []topology.Address{anOrigin}, Routes: []topology.Route{aRoute}, Masquerade: table, CNI: &topology.CNI{Bridge: "plainroute0"},
	}
	repairs := Diff(desired, topology.State{}).Repairs(desired, desired)
	var names []string
	for _, k := range repairs {
		names = append(names, k.String())
	}
	slices.Sort(names)
	want := []string{
		"CNI config 10-plainroute.conflist", "address 10.244.7.1/24 dev plainroute0", "bridge plainroute0", "device plainroute0",
		"nftables table plainroute", "route 10.244.7.0/24", "sysctl net/ipv4/ip_forward",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("repairs (-want +got):\n%s", diff)
	}
	if taken := Diff(topology.State{}, desired).Repairs(topology.State{}, topology.State{}); !slices.ContainsFunc(taken, func(k Key) bool { return k == bridgeKey("plainroute0") }) {
		t.Errorf("of what is taken away again only %v are repairs", taken)
	}
	if anew := Diff(desired, topology.State{}).Repairs(topology.State{}, desired); len(anew) > 0 {
		t.Errorf("what was asked for now for the first time counts as repaired: %v", anew)
	}
}

// Our own subnet's route and a peer's to the same subnet have keys of their own.
func TestOwnRouteHasAKeyOfItsOwn(t *testing.T) {
	own := aRoute
	own.Metric = topology.MetricOwn
	if got := routeKey(own).String(); got != "route unreachable 10.244.7.0/24" {
		t.Errorf("the key is %q", got)
	}
}

// Keys are in order by kind, then by name.
func TestKeysAreInOrder(t *testing.T) {
	all := []Key{{KindRoute, "b"}, {KindBridge, "z"}, {KindRoute, "a"}}
	slices.SortFunc(all, Key.Compare)
	if want := []Key{{KindBridge, "z"}, {KindRoute, "a"}, {KindRoute, "b"}}; !slices.Equal(all, want) {
		t.Errorf("got %v", all)
	}
}

// A table that is written anew has the rules that are desired and the elements of both.
func TestTableWrittenAnewIsWide(t *testing.T) {
	egress := []topology.Egress{{Dev: "eth0", Addr: anAddr}}
	desired := &topology.Masquerade{Bridge: "plainroute0", Sources: []netip.Prefix{aPrefix}, Egress: egress, Cluster: []netip.Prefix{aPrefix}}
	actual := &topology.Masquerade{
		Bridge: "plainroute0", Sources: []netip.Prefix{aPrefix}, Cluster: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}, Nodes: []netip.Addr{anAddr},
	}
	c := Diff(topology.State{Masquerade: desired}, topology.State{Masquerade: actual})
	want := Changes{
		Table: &topology.Masquerade{
			Bridge: "plainroute0", Sources: []netip.Prefix{aPrefix}, Egress: egress,
			Cluster: []netip.Prefix{aPrefix, netip.MustParsePrefix("10.244.9.0/24")}, Nodes: []netip.Addr{anAddr},
		},
		Narrow: SetChange{DeleteCluster: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}, DeleteNodes: []netip.Addr{anAddr}},
	}
	if diff := cmp.Diff(want, c, alike...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is kept joins a table that has sets, and no other.
func TestKeptElementsNeedATable(t *testing.T) {
	kept := Changes{Narrow: SetChange{DeleteCluster: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}}}.Removed()
	table := topology.Masquerade{Sources: []netip.Prefix{aPrefix}, Cluster: []netip.Prefix{aPrefix}}
	for name, c := range map[string]struct{ before, after *topology.Masquerade }{
		"none":    {nil, nil},
		"no sets": {&topology.Masquerade{Bridge: "plainroute0"}, &topology.Masquerade{Bridge: "plainroute0"}},
		"sets": {&table, &topology.Masquerade{
			Sources: []netip.Prefix{aPrefix}, Cluster: []netip.Prefix{aPrefix, netip.MustParsePrefix("10.244.9.0/24")},
		}},
		"the same": {&topology.Masquerade{Sources: []netip.Prefix{aPrefix}, Cluster: kept.Masquerade.Cluster}, &topology.Masquerade{
			Sources: []netip.Prefix{aPrefix}, Cluster: kept.Masquerade.Cluster,
		}},
	} {
		got := With(topology.State{Masquerade: c.before}, kept)
		if diff := cmp.Diff(c.after, got.Masquerade, alike...); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
