package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// useTable starts again with another table for our routes; 0: main.
func (m *machine) useTable(table int) {
	m.t.Helper()
	cfg := m.cfg
	m.must(m.Close())
	cfg.RouteTable = table
	kernel, err := New(cfg)
	m.must(err)
	m.Kernel, m.tune = kernel, func(o *topology.Options) { o.RouteTable = table }
}

// marked lists the routes with our mark in a table.
func (m *machine) marked(table int) []rtnl.Route {
	m.t.Helper()
	all, err := m.nl.RouteListFiltered(rtnl.FAMILY_ALL, &rtnl.Route{Protocol: topology.Protocol, Table: table}, rtnl.RT_FILTER_PROTOCOL|rtnl.RT_FILTER_TABLE)
	m.must(err)
	return all
}

// ruleTo adds or deletes the rules that lead to a table before main.
func (m *machine) ruleTo(table int, change func(*rtnl.Rule) error) {
	m.t.Helper()
	for family, there := range map[int]bool{unix.AF_INET: true, unix.AF_INET6: m.ipv6} {
		rule := rtnl.NewRule()
		rule.Family, rule.Table, rule.Priority = family, table, 1000
		if there {
			m.must(change(rule))
		}
	}
}

// A new table gets the routes. Those in main stay until a rule leads to the new one, and the next agent moves them back.
func TestRouteTable(t *testing.T) {
	for _, table := range []int{100, 1000} { // in the header of a message, and as an attribute
		m := newMachine(t)
		peers := nodes(4)
		m.settle(peers)
		before := len(m.marked(unix.RT_TABLE_MAIN))
		m.useTable(table)
		m.settleOwnFault(peers, problem.RouteTableUnused)
		if got := len(m.marked(unix.RT_TABLE_MAIN)); got != before {
			t.Errorf("without a rule %d routes are left in main, want %d", got, before)
		}
		m.ruleTo(table, m.nl.RuleAdd)
		m.settle(peers)
		perFamily := map[bool]int{true: 2, false: 1}[m.ipv6]
		if main, there := len(m.marked(unix.RT_TABLE_MAIN)), len(m.marked(table)); main != 0 || there != before+perFamily {
			t.Errorf("main has %d routes, and table %d has %d, want 0 and %d", main, table, there, before+perFamily)
		}
		m.followTable(peers, table)
		m.useTable(0)
		m.settle(peers)
		if main, there := len(m.marked(unix.RT_TABLE_MAIN)), len(m.marked(table)); main != before || there != 0 {
			t.Errorf("main has %d routes, and table %d has %d, want %d and 0", main, table, there, before)
		}
	}
}

// Another program's copies of main in other tables stay, although they have our marks.
func TestCopiesOfMainStay(t *testing.T) {
	m := newMachine(t)
	peers := nodes(4)
	m.settle(peers)
	copies := m.marked(unix.RT_TABLE_MAIN)
	for _, r := range copies {
		r.Table = 200
		m.must(m.nl.RouteAdd(&r))
	}
	m.useTable(0)
	m.settle(peers)
	if got := len(m.marked(200)); got != len(copies) {
		t.Errorf("%d of %d copies are left", got, len(copies))
	}
}

// A renamed bridge keeps its route: without it the unreachable one would take all packets to pods.
func TestRenamedBridgeKeepsItsRoute(t *testing.T) {
	m := newMachine(t)
	peers := nodes(4)
	m.useTable(100)
	m.ruleTo(100, m.nl.RuleAdd)
	m.settle(peers)
	before := len(m.marked(100))
	m.must(m.nl.LinkSetDown(m.link(topology.Bridge)))
	m.must(m.nl.LinkSetName(m.link(topology.Bridge), "br-pods"))
	m.up("br-pods")
	m.settleOwnFault(peers, problem.BridgeFailed)
	bridge := m.link("br-pods").Attrs().Index
	byBridge := func(r rtnl.Route) bool { return r.LinkIndex == bridge && r.Priority == topology.MetricBridge }
	if all := m.marked(100); len(all) != before || !slices.ContainsFunc(all, byBridge) {
		t.Errorf("with a renamed bridge there are %v", all)
	}
}

// A setting that can't be written does not keep the routes in the former table.
func TestStraysGoDespiteASetting(t *testing.T) {
	m := newMachine(t)
	peers := nodes(4)
	m.settle(peers)
	m.useTable(100)
	m.ruleTo(100, m.nl.RuleAdd)
	setting := plan.Of(plan.Replace, plan.Sysctl{Path: "net/ipv4/missing", Value: "1"})
	if err := m.Apply(t.Context(), setting.With(m.diff(peers)...)); err == nil {
		t.Error("a setting that the kernel lacks was written")
	}
	if left := m.marked(unix.RT_TABLE_MAIN); len(left) > 0 {
		t.Errorf("in main are left %v", left)
	}
}

// followTable has other programs change the table, its rules and main, and checks what is read then.
func (m *machine) followTable(peers []*topology.Node, table int) {
	m.t.Helper()
	m.must(m.nl.RouteDel(&m.marked(table)[0]))
	if c := m.pass(peers); len(c) != 1 {
		m.t.Errorf("a deleted route of table %d makes %v", table, c)
	}
	if c := m.diff(peers); !c.Empty() {
		m.t.Errorf("after its repair there is %v", c)
	}
	foreign := m.foreign("10.128.2.128/25", "192.168.1.99", "eth0", 0, 4)
	for _, there := range []int{unix.RT_TABLE_MAIN, table} {
		foreign.Table = there
		m.must(m.nl.RouteAdd(foreign))
		host, err := m.Facts(m.t.Context(), topology.Concerns(options(m), peers))
		m.must(err)
		to := func(r topology.Route) bool { return r.Dst.String() == foreign.Dst.String() }
		if main, beside := slices.ContainsFunc(host.Routes, to), slices.ContainsFunc(host.Beside(), to); !main || beside != (there == table) {
			m.t.Errorf("after a route in table %d: in main %t, in ours %t", there, main, beside)
		}
	}
	for _, there := range []int{unix.RT_TABLE_MAIN, table} {
		foreign.Table = there
		m.must(m.nl.RouteDel(foreign))
	}
	ruled := func() []netip.Prefix {
		host, err := m.Facts(m.t.Context(), topology.Concerns(options(m), peers))
		m.must(err)
		return host.RouteTable.Ruled
	}
	m.ruleTo(table, m.nl.RuleDel)
	if got := ruled(); len(got) > 0 {
		m.t.Errorf("without rules %v are led to the table", got)
	}
	m.ruleTo(table, m.nl.RuleAdd)
	if got := ruled(); !slices.Contains(got, all4) {
		m.t.Errorf("with rules %v are led to the table", got)
	}
}

// A rule after the one of main comes too late, unless main is left out for all packets.
func TestRulesThatLead(t *testing.T) {
	rule := func(table int, change func(*rtnl.Rule)) rtnl.Rule {
		r := rtnl.NewRule()
		r.Table = table
		if change != nil {
			change(r)
		}
		return *r
	}
	to := func(p string) func(*rtnl.Rule) {
		return func(r *rtnl.Rule) { _, r.Dst, _ = net.ParseCIDR(p) }
	}
	ours, main := rule(100, nil), rule(unix.RT_TABLE_MAIN, nil)
	noDefault := rule(unix.RT_TABLE_MAIN, func(r *rtnl.Rule) { r.SuppressPrefixlen = 0 })
	marked := rule(unix.RT_TABLE_MAIN, func(r *rtnl.Rule) { r.Mark = 1 })
	for name, c := range map[string]struct {
		rules []rtnl.Rule
		want  string
	}{
		"none":                      {nil, "[]"},
		"another's":                 {[]rtnl.Rule{rule(101, nil), main}, "[]"},
		"before main":               {[]rtnl.Rule{rule(101, nil), ours, main}, "[0.0.0.0/0]"},
		"after main":                {[]rtnl.Rule{main, ours}, "[]"},
		"after main's longer":       {[]rtnl.Rule{noDefault, ours, main}, "[0.0.0.0/0]"},
		"after main's of some only": {[]rtnl.Rule{marked, ours, main}, "[0.0.0.0/0]"},
		"after main's to some only": {[]rtnl.Rule{rule(unix.RT_TABLE_MAIN, to("10.9.0.0/16")), ours, main}, "[0.0.0.0/0]"},
		"by destination":            {[]rtnl.Rule{rule(100, to("10.50.0.0/24")), rule(100, to("10.128.0.0/16")), main}, "[10.50.0.0/24 10.128.0.0/16]"},
		"ours of marked packets":    {[]rtnl.Rule{rule(100, func(r *rtnl.Rule) { r.Mark = 1 }), main}, "[]"},
		"ours of one source":        {[]rtnl.Rule{rule(100, func(r *rtnl.Rule) { to("10.1.0.0/16")(r); r.Src = r.Dst }), main}, "[]"},
		"ours of packets by a link": {[]rtnl.Rule{rule(100, func(r *rtnl.Rule) { r.IifName = "eth0" }), main}, "[]"},
		"ours of all but a range":   {[]rtnl.Rule{rule(100, func(r *rtnl.Rule) { to("10.1.0.0/16")(r); r.Invert = true }), main}, "[]"},
	} {
		if got := fmt.Sprint(ledTo(c.rules, 100, all4)); got != c.want {
			t.Errorf("%s: %s are led to the table, want %s", name, got, c.want)
		}
	}
}
