package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// TestRandomTables draws main tables full of foreign routes, many of them with keys like ours, made
// before ours, after ours and among ours, and Nodes that come, move and go: whatever the order of
// the kernel's list, no operation of ours hits a foreign route, what we may have is there, a second
// pass changes nothing, and the zero State removes exactly ours.
func TestRandomTables(t *testing.T) {
	m := newMachine(t)
	rapid.Check(t, func(t *rapid.T) {
		table := &randomTable{machine: m, T: t, all: nodes(5)}
		table.clear()
		table.disturb("before")
		table.passes()
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			table.changeNodes()
			table.disturb("between")
			table.passes()
		}
		table.apply(topology.State{})
		if left := table.dump().ours; len(left) > 0 {
			t.Fatalf("the zero State leaves %v", left)
		}
	})
}

// A randomTable is a machine's main table under a test.
type randomTable struct {
	*machine
	*rapid.T
	all []*topology.Node
}

// An entry is a route with one next hop, in the words of ip-route(8). The protocol is left out for
// IPv6 routes by a gateway, because of several next hops the kernel returns only the first one's.
type entry string

// tableDump is the main table, but for what the kernel made.
type tableDump struct {
	ours, foreign []entry
	taken         map[string]bool // the keys that foreign routes have
}

func (r *randomTable) list() []rtnl.Route {
	var all []rtnl.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := r.nl.RouteListFiltered(family, &rtnl.Route{Table: unix.RT_TABLE_MAIN}, rtnl.RT_FILTER_TABLE)
		r.need(err)
		for _, route := range routes {
			ones, _ := route.Dst.Mask.Size()
			if route.Protocol != unix.RTPROT_KERNEL && ones != 0 && !route.Dst.IP.IsLinkLocalUnicast() {
				all = append(all, route)
			}
		}
	}
	return all
}

func (r *randomTable) need(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *randomTable) dump() tableDump {
	d := tableDump{taken: map[string]bool{}}
	for _, route := range r.list() {
		hops := route.MultiPath
		if len(hops) == 0 {
			hops = []*rtnl.NexthopInfo{{Gw: route.Gw, LinkIndex: route.LinkIndex}}
		}
		for _, hop := range hops {
			e := entryOf(route, hop)
			if r.mine(route, hop, len(hops)) {
				d.ours = append(d.ours, e)
				continue
			}
			d.foreign = append(d.foreign, e)
			if route.Tos == 0 {
				d.taken[key(route.Dst.String(), route.Priority)] = true
			}
		}
	}
	slices.Sort(d.ours)
	slices.Sort(d.foreign)
	return d
}

func key(dst string, metric int) string { return fmt.Sprintf("%s metric %d", dst, metric) }

func entryOf(route rtnl.Route, hop *rtnl.NexthopInfo) entry {
	protocol := route.Protocol
	if route.Family == unix.AF_INET6 && hop.Gw != nil {
		protocol = 0
	}
	return entry(fmt.Sprintf("type %d %s via %v link %d tos %d proto %d metric %d src %v",
		route.Type, route.Dst, hop.Gw, hop.LinkIndex, route.Tos, protocol, route.Priority, route.Src))
}

// ourMetric reports whether a route has a metric of ours.
func ourMetric(route rtnl.Route) bool {
	bits, _ := route.Dst.Mask.Size()
	addr, _ := netip.AddrFromSlice(route.Dst.IP)
	r := topology.Route{Dst: netip.PrefixFrom(addr.Unmap(), bits), Metric: uint32(route.Priority)}
	return r.ToPeer() || r.Metric == topology.MetricOwn
}

// mine identifies our routes independently: by the mark, and, among several next hops of an IPv6
// route, by a gateway that no drawn route has.
func (r *randomTable) mine(route rtnl.Route, hop *rtnl.NexthopInfo, hops int) bool {
	if !ourMetric(route) || route.Tos != 0 {
		return false
	}
	if hops > 1 {
		return route.Family == unix.AF_INET6 && !slices.Contains(strangers6, hop.Gw.String())
	}
	return route.Protocol == topology.Protocol
}

// The gateways of foreign routes. In IPv4 a Node's address may be one too.
var (
	strangers4 = []string{"192.168.1.98", "192.168.1.99", "192.168.1.12", "192.168.1.13"}
	strangers6 = []string{"fd00:192:168:1::98", "fd00:192:168:1::99"}
)

// clear takes away what the round before left.
func (r *randomTable) clear() {
	for range 20 {
		left := r.list()
		if len(left) == 0 {
			return
		}
		for i := range left {
			_ = r.nl.RouteDel(&left[i]) // the next round of the loop sees
		}
	}
	r.Fatalf("can't clear the table of %v", r.list())
}

// disturb adds foreign routes. The kernel refuses some, because their key is taken.
func (r *randomTable) disturb(when string) {
	for range rapid.IntRange(0, 12).Draw(r.T, "foreign routes "+when) {
		route := r.drawForeign()
		how := rapid.SampledFrom([]string{"add", "append", "prepend"}).Draw(r.T, "how")
		err := map[string]func(*rtnl.Route) error{
			"add": r.nl.RouteAdd, "append": r.nl.RouteAppend, "prepend": r.nl.RouteAddEcmp,
		}[how](route)
		r.Logf("%s %s: %v", how, route, err)
	}
}

func (r *randomTable) drawForeign() *rtnl.Route {
	is4 := !r.ipv6 || rapid.Bool().Draw(r.T, "IPv4")
	subnets, gateways := []string{"10.128.0.0/16", "10.128.1.128/25", "10.128.2.7/32"}, strangers4
	if !is4 {
		subnets, gateways = []string{"fd01::/48", "fd01:0:0:1::/65", "fd01:0:0:2::7/128"}, strangers6
	}
	for _, n := range nodes(4) {
		for _, p := range n.PodCIDRs {
			if p.Addr().Is4() == is4 {
				subnets = append(subnets, p.String(), p.String())
			}
		}
	}
	metrics := rapid.SampledFrom([]int{0, 100, 2047, 2048, -1, -1, 2049, 4096}) // -1: ours of the subnet
	route := &rtnl.Route{
		Table: unix.RT_TABLE_MAIN, Priority: metrics.Draw(r.T, "metric"),
		Protocol: rtnl.RouteProtocol(rapid.SampledFrom([]int{3, 4, 16, 112, 186}).Draw(r.T, "protocol")),
	}
	_, route.Dst, _ = net.ParseCIDR(rapid.SampledFrom(subnets).Draw(r.T, "subnet"))
	if route.Priority < 0 {
		route.Priority = int(topology.PeerMetric(netip.MustParsePrefix(route.Dst.String())))
	}
	if is4 {
		route.Tos = rapid.SampledFrom([]int{0, 0, 0, 8}).Draw(r.T, "tos")
	}
	if route.Protocol == topology.Protocol && route.Tos == 0 && ourMetric(*route) {
		route.Priority++ // with all of our mark it would be ours
	}
	r.drawHops(route, rapid.SampledFrom(gateways))
	return route
}

func (r *randomTable) drawHops(route *rtnl.Route, gateways *rapid.Generator[string]) {
	link := r.eth0.Attrs().Index
	switch rapid.SampledFrom([]string{"gateway", "gateway", "gateway", "link", "unreachable", "blackhole", "multipath"}).Draw(r.T, "kind") {
	case "gateway":
		route.LinkIndex, route.Gw = link, net.ParseIP(gateways.Draw(r.T, "gateway"))
	case "link":
		route.LinkIndex = link
		if route.Dst.IP.To4() != nil {
			route.Scope = unix.RT_SCOPE_LINK
		}
	case "unreachable":
		route.Type = unix.RTN_UNREACHABLE
	case "blackhole":
		route.Type = unix.RTN_BLACKHOLE
	case "multipath":
		for _, gw := range rapid.SliceOfNDistinct(gateways, 2, 2, rapid.ID).Draw(r.T, "gateways") {
			route.MultiPath = append(route.MultiPath, &rtnl.NexthopInfo{LinkIndex: link, Gw: net.ParseIP(gw)})
		}
	}
}

// changeNodes gives a Node another address, or takes it away, or brings it back.
func (r *randomTable) changeNodes() {
	known := nodes(5)
	for i := 1; i < len(known); i++ {
		switch rapid.SampledFrom([]string{"stays", "stays", "moves", "goes"}).Draw(r.T, known[i].Name) {
		case "moves":
			known[i].Addrs = []netip.Addr{
				netip.AddrFrom4([4]byte{192, 168, 1, 111 + byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd00:192:168:1::%x", 0x111+i)),
			}
		case "goes":
			known[i] = nil
		}
	}
	r.all = append(nodes(1), slices.DeleteFunc(known[1:], func(n *topology.Node) bool { return n == nil })...)
}

// passes makes one, which must not touch what is foreign, and a second one, which
// must find nothing to do.
func (r *randomTable) passes() {
	before := r.dump()
	desired := r.desire()
	r.apply(desired)
	after := r.dump()
	r.complete(before, after)
	if again := r.difference(r.desire()); !again.Empty() {
		r.Fatalf("a second pass would change %+v", again)
	}
}

func (r *randomTable) desire() topology.State {
	r.Forget()
	host, err := r.Facts(context.Background(), topology.Concerns(options(r.machine), r.all))
	r.need(err)
	actual, err := r.Observe(context.Background())
	r.need(err)
	desired, _ := topology.Desired(options(r.machine), host, r.stated(r.all), actual)
	return desired
}

func (r *randomTable) difference(desired topology.State) plan.Changes {
	r.Forget()
	actual, err := r.Observe(context.Background())
	r.need(err)
	return plan.Diff(desired, actual)
}

// apply makes it so, and checks that all that is foreign is as before.
func (r *randomTable) apply(desired topology.State) {
	before := r.dump()
	changes := r.difference(desired)
	if err := r.Apply(context.Background(), changes); err != nil {
		r.Errorf("%v\nin the table\n%s", err, before)
	}
	after := r.dump()
	lost, found := minus(before.foreign, after.foreign), minus(after.foreign, before.foreign)
	if len(lost) > 0 || slices.ContainsFunc(found, func(e entry) bool { return !e.mayHide() }) {
		r.Fatalf("foreign routes were hit by %+v\nlost: %v\nnew: %v\nbefore:\n%s\nafter:\n%s", changes, lost, found, before, after)
	}
}

// minus returns what is in a more often than in b.
func minus(a, b []entry) []entry {
	b = slices.Clone(b)
	return slices.DeleteFunc(slices.Clone(a), func(e entry) bool {
		i := slices.Index(b, e)
		if i >= 0 {
			b = slices.Delete(b, i, i+1)
		}
		return i >= 0
	})
}

func (e entry) mayHide() bool {
	return strings.Contains(string(e), fmt.Sprintf("metric %d ", topology.MetricPeer)) && strings.Contains(string(e), "::")
}

func (d tableDump) String() string {
	var b strings.Builder
	for _, e := range d.ours {
		fmt.Fprintln(&b, "ours   ", e)
	}
	for _, e := range d.foreign {
		fmt.Fprintln(&b, "foreign", e)
	}
	return b.String()
}

// complete checks that we have each route whose key is free, and no other but
// those which stand by beside a foreign one of their key.
func (r *randomTable) complete(before, after tableDump) {
	want := map[string]string{}
	for _, n := range r.all {
		for i, p := range n.PodCIDRs[:r.families()] {
			if n.Name == "node1" {
				want[key(p.String(), topology.MetricOwn)] = "type 7 " // unreachable
			} else {
				want[key(p.String(), int(topology.PeerMetric(p)))] = "via " + n.Addrs[i].String() + " "
			}
		}
	}
	for k, part := range want {
		has := func(e entry) bool {
			dst, metric, _ := strings.Cut(k, " ")
			return strings.Contains(string(e), " "+dst+" ") && strings.Contains(string(e), metric+" ") && strings.Contains(string(e), part)
		}
		was, is := slices.ContainsFunc(before.ours, has), slices.ContainsFunc(after.ours, has)
		if (was || !before.taken[k]) && !is {
			r.Fatalf("no route of ours to %s %s\nbefore:\n%s\nafter:\n%s", k, part, before, after)
		}
	}
	if len(after.ours) > len(want) {
		r.Fatalf("%d routes of ours, want %d:\n%s", len(after.ours), len(want), after)
	}
}
