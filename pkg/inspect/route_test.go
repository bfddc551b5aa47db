package inspect

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/seccomp"
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
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, unix.RTM_GETRULE)
	if got, err := i.Rules(true); got != nil || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "listing rules: ") {
		t.Errorf("refused: %v, %v", got, err)
	}
}

// A lookup follows the policy rules; with a device and a source it is that of a packet that comes
// in there.
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
		got, err := i.Lookup(netip.MustParseAddr(c.to), c.dev, from, Selector{})
		if err != nil || got != (Route{Dev: c.out, Via: via}) {
			t.Errorf("%+v: got %+v, %v", c, got, err)
		}
	}
	to := netip.MustParseAddr("10.244.2.1")
	if got, err := i.Lookup(to, "none", netip.Addr{}, Selector{}); got != (Route{}) || err == nil {
		t.Errorf("by a device that is not there: %+v, %v", got, err)
	}
	r := seccomp.NewRefuser(t)
	for n, want := range []string{"looking up 10.244.2.1: ", "looking up the device towards 10.244.2.1: "} {
		end := r.Nth(unix.ENOMEM, n+1)
		if got, err := i.Lookup(to, "", netip.Addr{}, Selector{}); got != (Route{}) || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("without request %d: %+v, %v", n+1, got, err)
		}
		end()
	}
}

// A rule that selects one kind of packet does not route others, and each selector is looked up by
// itself.
func TestLookupBySelector(t *testing.T) {
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
	for n, want := range []Selector{{Protocol: unix.IPPROTO_TCP, DstPort: 80}, {Mark: masqueradeMark}, {}} {
		if rules[n].Selector != want {
			t.Errorf("rule %d is for %+v, want %+v", n, rules[n].Selector, want)
		}
	}
	to := netip.MustParseAddr("198.51.100.1")
	for selector, via := range map[Selector]string{
		{}:                           "192.168.1.1",
		{Protocol: unix.IPPROTO_TCP}: "192.168.1.1",
		{Protocol: unix.IPPROTO_TCP, DstPort: 80}:    "192.168.1.9",
		{Protocol: unix.IPPROTO_UDP, DstPort: 80}:    "192.168.1.1",
		{Protocol: unix.IPPROTO_TCP, SourcePort: 80}: "192.168.1.1",
		{TOS: 16}:              "192.168.1.1",
		{Mark: masqueradeMark}: "192.168.1.9",
	} {
		if got, err := i.Lookup(to, "", netip.MustParseAddr("192.168.1.11"), selector); err != nil || got.Via.String() != via || got.Dev != "eth0" {
			t.Errorf("%q: got %+v, %v, want %s", selector, got, err, via)
		}
	}
	if _, err := i.Lookup(to, "", netip.Addr{}, Selector{Protocol: unix.IPPROTO_SCTP}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("of SCTP: %v", err)
	}
	if _, err := i.Lookup(to, "none", netip.Addr{}, Selector{TOS: 16}); err == nil {
		t.Error("by a device that is not there")
	}
}

// A route that can't be looked up is reported. If the second lookup fails, its MTU is not known.
func TestRefusedRouteIsReported(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	route := m.foreign("10.244.2.0/24", "192.168.1.12", "eth0", 0, 4)
	route.MTU = 1400
	m.must(m.nl.RouteAdd(route))
	via := netip.MustParseAddr("192.168.1.12")
	r := seccomp.NewRefuser(t)
	for n, want := range []Route{{}, {}, {"eth0", via, 0}, {"eth0", via, 1400}} {
		end := r.Nth(unix.ENOMEM, n+1)
		route, err := i.RouteTo(netip.MustParseAddr("10.244.2.1"))
		if end(); route != want || (err != nil) != (n < 2) || err != nil && !errors.Is(err, unix.ENOMEM) {
			t.Errorf("without request %d: %+v, %v", n+1, route, err)
		}
	}
}

// The MTU is that of the route.
func TestRouteTo(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	i := m.inspector()
	dst, err := rtnl.ParseIPNet("192.168.1.12/32")
	m.must(err)
	m.must(m.nl.RouteAdd(&rtnl.Route{LinkIndex: m.eth0.Attrs().Index, Dst: dst, MTU: 1400}))
	for to, want := range map[string]Route{
		"192.168.1.12":       {Dev: "eth0", MTU: 1400},
		"192.168.1.13":       {Dev: "eth0"},
		"198.51.100.1":       {Dev: "eth0", Via: netip.MustParseAddr("192.168.1.1")},
		"fd00:192:168:1::12": {Dev: "eth0"},
	} {
		if got, err := i.RouteTo(netip.MustParseAddr(to)); got != want || err != nil {
			t.Errorf("the route to %s is %+v, %v, want %+v", to, got, err, want)
		}
	}
	if route, err := i.RouteTo(netip.MustParseAddr("2001:db8::1")); err == nil {
		t.Errorf("there is a route to where there is none: %+v", route)
	}
}

// Each table is read once, and not that of a rule which refuses.
func TestDestinations(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	for n, dst := range []string{"10.244.2.0/24", "10.244.3.0/24", "10.96.0.0/12"} {
		route := m.foreign(dst, "192.168.1.9", "eth0", 0, 4)
		route.Table = 100 + n%2
		m.must(m.nl.RouteAdd(route))
	}
	pods := func(p netip.Prefix) bool { return p.Bits() == 24 }
	got, err := i.Destinations(true, []Rule{{Table: 100}, {Table: 100}, {}, {Table: 101}}, pods)
	if want := []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("10.244.3.0/24")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, unix.RTM_GETROUTE)
	if got, err := i.Destinations(true, []Rule{{Table: 100}}, pods); got != nil || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "listing routes of table 100: ") {
		t.Errorf("refused: %v, %v", got, err)
	}
}

func TestSelectorText(t *testing.T) {
	for want, s := range map[string]Selector{
		"":                            {},
		"ICMPv6":                      {Protocol: unix.IPPROTO_ICMPV6},
		"UDP, from port 5, to port 6": {Protocol: unix.IPPROTO_UDP, SourcePort: 5, DstPort: 6},
		"type of service 0x10, mark 0x4000, as kube-proxy's for masquerading": {TOS: 16, Mark: masqueradeMark},
	} {
		if got := s.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A port without a protocol is looked up as TCP. An inverted rule has the selector of any packet.
func TestSelectorOfARule(t *testing.T) {
	port := rtnl.NewRulePortRange(80, 90)
	for _, c := range []struct {
		rule rtnl.Rule
		want Selector
	}{
		{rtnl.Rule{Tos: 16}, Selector{TOS: 16}},
		{rtnl.Rule{Sport: port}, Selector{Protocol: unix.IPPROTO_TCP, SourcePort: 80}},
		{rtnl.Rule{Dport: port}, Selector{Protocol: unix.IPPROTO_TCP, DstPort: 80}},
		{rtnl.Rule{Dport: port, IPProto: unix.IPPROTO_UDP}, Selector{Protocol: unix.IPPROTO_UDP, DstPort: 80}},
		{rtnl.Rule{Dport: port, Invert: true}, Selector{}},
	} {
		if got := selectorOf(c.rule); got != c.want {
			t.Errorf("%+v: got %+v, want %+v", c.rule, got, c.want)
		}
	}
}
