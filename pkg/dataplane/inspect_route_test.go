package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (m *machine) rule(priority, table int, from, to string) {
	m.t.Helper()
	r := rtnl.NewRule()
	r.Priority, r.Table, r.Family = priority, table, rtnl.FAMILY_V4
	if strings.Contains(from+to, ":") {
		r.Family = rtnl.FAMILY_V6
	}
	var err error
	if from != "" {
		r.Src, err = rtnl.ParseIPNet(from)
		m.must(err)
	}
	if to != "" {
		r.Dst, err = rtnl.ParseIPNet(to)
		m.must(err)
	}
	m.must(m.nl.RuleAdd(r))
}

func TestRules(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	m.rule(300, 100, "10.244.1.0/24", "")
	m.rule(0, 100, "", "10.244.2.0/24")
	m.rule(200, unix.RT_TABLE_MAIN, "10.244.3.0/24", "")
	m.rule(201, unix.RT_TABLE_LOCAL, "10.244.3.0/24", "")
	want := []Rule{
		{To: netip.MustParsePrefix("10.244.2.0/24"), Table: 100},
		{Priority: 300, From: netip.MustParsePrefix("10.244.1.0/24"), Table: 100},
		{Priority: 32767, Table: unix.RT_TABLE_DEFAULT},
	}
	if got, err := i.Rules(true); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if m.ipv6 {
		m.rule(300, 100, "fd00:1::/64", "fd00:2::/64")
		want := []Rule{{Priority: 300, From: netip.MustParsePrefix("fd00:1::/64"), To: netip.MustParsePrefix("fd00:2::/64"), Table: 100}}
		if got, err := i.Rules(false); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	r := newRefuser(t)
	r.requests(unix.ENOMEM, unix.RTM_GETRULE)
	if got, err := i.Rules(true); got != nil || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "listing rules: ") {
		t.Errorf("refused: %v, %v", got, err)
	}
}

// A lookup goes by the rules, and with a device and a source as for a packet that comes in there.
func TestLookup(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	m.sysctl("net/ipv4/ip_forward", "1")
	m.addVeth("eth1", 1500)
	m.addr("eth1", "10.244.1.1/24")
	m.rule(100, 100, "10.244.1.7/32", "")
	route := m.foreign("10.244.2.0/24", "10.244.1.9", "eth1", 0, 4)
	route.Table = 100
	m.must(m.nl.RouteAdd(route))
	for _, c := range []struct{ to, dev, from, via, out string }{
		{"10.244.2.1", "", "", "192.168.1.1", "eth0"},
		{"192.168.1.12", "", "", "", "eth0"},
		{"10.244.1.8", "", "", "", "eth1"},
		{"10.244.2.1", "eth1", "10.244.1.7", "10.244.1.9", "eth1"},
		{"10.244.2.1", "eth1", "10.244.1.8", "192.168.1.1", "eth0"},
	} {
		from, _ := netip.ParseAddr(c.from)
		via, _ := netip.ParseAddr(c.via)
		gotVia, out, err := i.Lookup(netip.MustParseAddr(c.to), c.dev, from)
		if err != nil || gotVia != via || out != c.out {
			t.Errorf("%+v: got %v, %s, %v", c, gotVia, out, err)
		}
	}
	to := netip.MustParseAddr("10.244.2.1")
	if via, out, err := i.Lookup(to, "none", netip.Addr{}); via.IsValid() || out != "" || err == nil {
		t.Errorf("by a device that is not there: %v, %s, %v", via, out, err)
	}
	r := newRefuser(t)
	for n, want := range []string{"looking up 10.244.2.1: ", "looking up the device towards 10.244.2.1: "} {
		end := r.nth(unix.ENOMEM, n+1)
		if via, out, err := i.Lookup(to, "", netip.Addr{}); via.IsValid() || out != "" || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("without request %d: %v, %s, %v", n+1, via, out, err)
		}
		end()
	}
}

// A rule for one kind of packet gives others no way, and each kind is looked up by itself.
func TestLookupKind(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	tcp80 := rtnl.NewRule()
	tcp80.Family, tcp80.Table, tcp80.Priority, tcp80.IPProto, tcp80.Dport = unix.AF_INET, 100, 100, unix.IPPROTO_TCP, rtnl.NewRulePortRange(80, 90)
	marked := rtnl.NewRule()
	mask := uint32(0xc000)
	marked.Family, marked.Table, marked.Priority, marked.Mark, marked.Mask = unix.AF_INET, 100, 101, masqueradeMark, &mask
	m.must(m.nl.RuleAdd(tcp80))
	m.must(m.nl.RuleAdd(marked))
	route := m.foreign("0.0.0.0/0", "192.168.1.9", "eth0", 0, 4)
	route.Table = 100
	m.must(m.nl.RouteAdd(route))
	rules, err := i.Rules(true)
	m.must(err)
	for n, want := range []PacketKind{{Protocol: unix.IPPROTO_TCP, DstPort: 80}, {Mark: masqueradeMark}, {}} {
		if rules[n].Kind != want {
			t.Errorf("rule %d is for %+v, want %+v", n, rules[n].Kind, want)
		}
	}
	to := netip.MustParseAddr("198.51.100.1")
	for kind, via := range map[PacketKind]string{
		{}:                           "192.168.1.1",
		{Protocol: unix.IPPROTO_TCP}: "192.168.1.1",
		{Protocol: unix.IPPROTO_TCP, DstPort: 80}:    "192.168.1.9",
		{Protocol: unix.IPPROTO_UDP, DstPort: 80}:    "192.168.1.1",
		{Protocol: unix.IPPROTO_TCP, SourcePort: 80}: "192.168.1.1",
		{TOS: 16}:              "192.168.1.1",
		{Mark: masqueradeMark}: "192.168.1.9",
	} {
		if got, out, err := i.LookupKind(to, "", netip.MustParseAddr("192.168.1.11"), kind); err != nil || got.String() != via || out != "eth0" {
			t.Errorf("%q: got %v, %s, %v, want %s", kind, got, out, err, via)
		}
	}
	if _, _, err := i.LookupKind(to, "", netip.Addr{}, PacketKind{Protocol: unix.IPPROTO_SCTP}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("of SCTP: %v", err)
	}
	if _, _, err := i.LookupKind(to, "none", netip.Addr{}, PacketKind{TOS: 16}); err == nil {
		t.Error("by a device that is not there")
	}
}

// A way that can't be looked up is reported; without the route that it goes by, its MTU is that of the device.
func TestRefusedWayIsTold(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	route := m.foreign("10.244.2.0/24", "192.168.1.12", "eth0", 0, 4)
	route.MTU = 1400
	m.must(m.nl.RouteAdd(route))
	via := netip.MustParseAddr("192.168.1.12")
	r := newRefuser(t)
	for n, want := range []Way{{}, {}, {"eth0", via, 0}, {"eth0", via, 1400}} {
		end := r.nth(unix.ENOMEM, n+1)
		way, err := i.WayTo(netip.MustParseAddr("10.244.2.1"))
		if end(); way != want || (err != nil) != (n < 2) || err != nil && !errors.Is(err, unix.ENOMEM) {
			t.Errorf("without request %d: %+v, %v", n+1, way, err)
		}
	}
}
