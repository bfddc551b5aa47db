package topology

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

// Two values are equal if all fields are, and not if one of them differs; fields that don't count
// are named.
func TestEachFieldCountsForEquality(t *testing.T) {
	addr, prefix := netip.MustParseAddr("192.168.1.11"), netip.MustParsePrefix("10.244.1.0/24")
	eachField(t, Device{Name: "a", Pod: addr}, Device.Like, "Name", "Pod", "Known", "Duplicate")
	eachField(t, Node{Name: "a", PodCIDRs: []netip.Prefix{prefix}}, func(a, b Node) bool { return a.Equal(&b) })
	eachField(t, Masquerade{Bridge: "a"}, func(a, b Masquerade) bool { return a.SameRules(&b) }, "Cluster", "Nodes", "Endpoints")
	eachField(t, CNI{Bridge: "a"}, func(a, b CNI) bool { return a.Equal(&b) })
	conf := &CNI{Bridge: "a"}
	if conf.Equal(nil) || (*CNI)(nil).Equal(conf) || !(*CNI)(nil).Equal(nil) {
		t.Error("a config equals none, or none is not equal to none")
	}
}

func eachField[T any](t *testing.T, value T, equal func(a, b T) bool, leftOut ...string) {
	t.Helper()
	if !equal(value, value) {
		t.Errorf("%+v does not equal itself", value)
	}
	for i := range reflect.TypeFor[T]().NumField() {
		other := value
		field := reflect.ValueOf(&other).Elem().Field(i)
		field.Set(different(t, field))
		name := reflect.TypeFor[T]().Field(i).Name
		if equal(value, other) != slices.Contains(leftOut, name) || equal(other, value) != slices.Contains(leftOut, name) {
			t.Errorf("%T: %+v and %+v, which differ in %s, are equal: %v", value, value, other, name, equal(value, other))
		}
	}
}

// different returns another value than a field has.
func different(t *testing.T, field reflect.Value) reflect.Value {
	t.Helper()
	switch have := field.Interface().(type) {
	case time.Time:
		return reflect.ValueOf(have.Add(time.Second))
	case netip.Addr:
		return reflect.ValueOf(netip.MustParseAddr("192.0.2.1"))
	}
	switch field.Kind() {
	case reflect.String:
		return reflect.ValueOf(field.String() + "x").Convert(field.Type())
	case reflect.Bool:
		return reflect.ValueOf(!field.Bool())
	case reflect.Int:
		return reflect.ValueOf(int(field.Int()) + 1)
	case reflect.Slice:
		return reflect.Append(field, reflect.Zero(field.Type().Elem()))
	}
	t.Fatalf("no other value of %v", field.Type())
	return field
}

// Lists are in the order of subnets, with Nodes that have none at their begin, by name.
func TestNodesInTheOrderOfSubnets(t *testing.T) {
	node := func(name string, subnets ...string) *Node {
		n := &Node{Name: name}
		for _, s := range subnets {
			n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(s))
		}
		return n
	}
	all := []*Node{node("d", "10.244.2.0/24"), node("b"), node("c", "10.244.1.0/24", "fd00::/64"), node("e", "10.244.2.0/24"), node("a")}
	slices.SortFunc(all, CompareSubnets)
	var names string
	for _, n := range all {
		names += n.Name
	}
	if names != "abcde" {
		t.Errorf("the order is %s", names)
	}
}

func TestEgressInOrder(t *testing.T) {
	a, b := netip.MustParseAddr("192.168.1.11"), netip.MustParseAddr("fd00::11")
	want := []Egress{{"eth0", a}, {"eth1", a}, {"eth0", b}}
	got := []Egress{want[2], want[1], want[0]}
	slices.SortFunc(got, Egress.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("the order is %v", got)
	}
}

func TestNeighborSettingsAreKnown(t *testing.T) {
	for path, want := range map[string]bool{
		NeighSysctl(4, 1): true, NeighSysctl(6, 3): true, "net/ipv4/neigh/default/gc_interval": false, "kernel/neigh/default/gc_thresh1": false, SysctlForward4: false,
	} {
		if IsNeighSysctl(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

func TestDevicesInWords(t *testing.T) {
	for want, d := range map[string]Device{"dev a down": {Name: "a"}, "dev a up": {Name: "a", Up: true}, "dev a master b up": {Name: "a", Master: "b", Up: true}} {
		if got := d.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	from := Route{Dst: netip.MustParsePrefix("::/0"), From: netip.MustParsePrefix("fd00::/64"), Dev: "eth0"}
	if got := from.String(); got != "default from fd00::/64 dev eth0" {
		t.Errorf("got %q", got)
	}
}
