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
	want := []Rule{{To: netip.MustParsePrefix("10.244.2.0/24")}, {Priority: 300, From: netip.MustParsePrefix("10.244.1.0/24")}, {Priority: 32767}}
	if got, err := i.Rules(true); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if m.ipv6 {
		m.rule(300, 100, "fd00:1::/64", "fd00:2::/64")
		want := []Rule{{300, netip.MustParsePrefix("fd00:1::/64"), netip.MustParsePrefix("fd00:2::/64")}}
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
