package dataplane

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// Truncated, cached or foreign-family messages are not routes, next hops or addresses.
func TestBrokenMessagesAreLeftOut(t *testing.T) {
	var m message
	good := appendRoute(nil, plan.Route{Route: topology.Route{Dst: netip.MustParsePrefix("10.128.1.0/24"), Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix("10.128.1.0/24"))}}, 7, unix.RT_SCOPE_UNIVERSE)
	if !m.parse(good) || m.oif != 7 || m.metric != topology.PeerMetric(m.dst) {
		t.Fatalf("a whole route is %+v", m)
	}
	cached := append([]byte(nil), good...)
	cached[9] |= unix.RTM_F_CLONED >> 8
	other := append([]byte{unix.AF_BRIDGE}, good[1:]...)
	for name, b := range map[string][]byte{"short": good[:unix.SizeofRtMsg-1], "of another family": other, "cached": cached} {
		if m.parse(b) {
			t.Errorf("a message that is %s is a route: %+v", name, m)
		}
	}
	if id, _ := parseObject(make([]byte, unix.SizeofNhmsg-1)); id != 0 {
		t.Errorf("a short next hop has id %d", id)
	}
	object := appendAttribute(make([]byte, unix.SizeofNhmsg), unix.NHA_ID, []byte{1, 0, 0, 0})
	if id, o := parseObject(appendAttribute(object, unix.NHA_ENCAP, nil)); id == 0 || !o.encap {
		t.Errorf("a next hop with an encapsulation is %+v", o)
	}
	if _, ok := parsePeerAddr(unix.RTM_NEWADDR, []byte{unix.AF_INET}, unix.AF_INET, 1, 0); ok {
		t.Error("a short message is an address")
	}
}

// An IPv4 route by an IPv6 gateway has the family before the address.
func TestGatewayOfAnotherFamily(t *testing.T) {
	via := netip.MustParseAddr("fd00::1")
	var h hop
	if h.attribute(unix.RTA_VIA, append([]byte{unix.AF_INET6, 0}, via.AsSlice()...)); h.via != via {
		t.Errorf("got %v", h.via)
	}
	if h.attribute(unix.RTA_VIA, []byte{unix.AF_INET6, 0}); h.via != via {
		t.Errorf("an empty one is %v", h.via)
	}
}

// Rules and chains that differ from ours are not taken for ours.
func TestTablesThatDifferFromOurs(t *testing.T) {
	meta, cmp := &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, equal(paddedName("eth0"))
	if name := comparedName([]expr.Any{meta, cmp}, 1); name != "eth0" {
		t.Errorf("the name is %q", name)
	}
	for _, exprs := range [][]expr.Any{{}, {meta}, {meta, meta}, {cmp, cmp}} {
		if name := comparedName(exprs, 1); name != "" {
			t.Errorf("%v has the name %q", exprs, name)
		}
	}
	ip := netip.MustParseAddr
	if p, ok := rangePrefix(ip("10.0.0.0"), ip("10.0.1.0")); !ok || p.String() != "10.0.0.0/24" {
		t.Errorf("got %v, %t", p, ok)
	}
	for _, end := range []string{"10.0.0.3", "10.0.2.1", "9.0.0.0"} {
		if p, ok := rangePrefix(ip("10.0.0.1"), ip(end)); ok {
			t.Errorf("10.0.0.1 to %s is %v", end, p)
		}
	}
	for name, elements := range map[string][]nftables.SetElement{
		"no prefix": {{Key: []byte{10, 0, 0, 1}}, {Key: []byte{10, 0, 0, 4}, IntervalEnd: true}}, "catch-all": {{}},
	} {
		if got, ok := parseIntervals(elements); ok {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A refused look at NAT bindings is reported; a kernel without ctnetlink has none.
func TestRefusedBindingsAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	r := seccomp.NewRefuser(t)
	ranges := []netip.Prefix{netip.MustParsePrefix("10.128.0.0/16")}
	for errno, reported := range map[unix.Errno]bool{unix.EOPNOTSUPP: false, unix.EINVAL: false, unix.ENOMEM: true} {
		r.Requests(errno, conntrackGet)
		err := m.release(ranges, ranges)
		if errors.Is(err, errno) != reported || (err != nil) != reported || reported && !strings.Contains(err.Error(), "reading NAT bindings: ") {
			t.Errorf("after %v: %v", errno, err)
		}
	}
	r.Nothing()
}

// Impossible changes are reported without a request: a bridge with a broken MAC address, a port of
// a missing bridge.
func TestImpossibleDevicesAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	if err := m.Apply(t.Context(), plan.Of(plan.Add, plan.Bridge{Device: topology.Device{Name: "br7", MAC: "no MAC"}})); err == nil || !strings.Contains(err.Error(), "adding bridge br7: ") {
		t.Errorf("got %v", err)
	}
	if err := m.Apply(t.Context(), devices(topology.Device{Name: "eth0", Master: "nowhere"})); !errors.Is(err, errNoDevice) {
		t.Errorf("got %v", err)
	}
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, unix.RTM_GETADDR)
	if err := m.Apply(t.Context(), plan.Of(plan.Delete, bridge(topology.Bridge))); !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "deleting bridge plainroute0: listing addresses: ") {
		t.Errorf("got %v", err)
	}
	r.Nothing()
}
