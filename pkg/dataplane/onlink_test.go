package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// TestOnLinkIsWhatTheKernelSays draws main tables and holds what topology makes of them to
// the kernel's own answer (RTM_GETROUTE). Where topology takes a Node for a neighbor on a
// device, the kernel must send to it by that device and no gateway. Where topology does
// not, though the kernel would, it must be for a reason that docs/design.md gives.
func TestOnLinkIsWhatTheKernelSays(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.addLinks()
	rapid.Check(t, func(t *rapid.T) {
		w := &wayTest{machine: m, T: t}
		w.clear()
		for range rapid.IntRange(0, 14).Draw(t, "routes") {
			w.drawWay()
		}
		addrs := rapid.SliceOfNDistinct(rapid.Custom(drawDestination), 8, 8, rapid.ID).Draw(t, "addresses")
		w.compare(addrs)
	})
}

// addLinks adds links of several kinds to eth0 and lo: another LAN, two without carrier, of which
// the kernel ignores the routes of one, a foreign bridge, and ours.
func (m *machine) addLinks() {
	m.t.Helper()
	for _, name := range []string{"eth1", "idle", "ignored"} {
		m.addVeth(name, 1500)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		m.sysctl("net/"+family+"/conf/ignored/ignore_routes_with_linkdown", "1")
	}
	for _, name := range []string{"idle", "ignored"} {
		m.must(m.nl.LinkSetDown(m.link(name + "-peer")))
	}
	for _, name := range []string{"other0", topology.Bridge} {
		m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: name}}))
		m.up(name)
	}
	m.addr("eth1", "10.66.1.1/24")
	m.addr("idle", "10.77.0.1/32") // without an address the kernel would look for a source elsewhere
	m.addr("ignored", "10.77.0.2/32")
	m.addr("other0", "10.66.0.3/32")
	m.addr(topology.Bridge, "10.66.2.1/24")
}

// A wayTest is a machine with a drawn main table.
type wayTest struct {
	*machine
	*rapid.T
}

func (w *wayTest) need(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// drawn is the protocol of drawn routes.
const drawn = unix.RTPROT_BIRD

// clear takes away what the round before left.
func (w *wayTest) clear() {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for tries := 0; ; tries++ {
			left, err := w.nl.RouteListFiltered(family, &rtnl.Route{Table: unix.RT_TABLE_MAIN, Protocol: drawn}, rtnl.RT_FILTER_TABLE|rtnl.RT_FILTER_PROTOCOL)
			w.need(err)
			if len(left) == 0 {
				break
			}
			if tries > 20 {
				w.Fatalf("can't clear the table of %v", left)
			}
			for i := range left {
				w.remove(&left[i])
			}
		}
	}
}

// remove deletes a route by its key; the next round of clear sees what is left.
func (w *wayTest) remove(r *rtnl.Route) {
	r.Src, r.Encap = nil, nil
	if err := w.nl.RouteDel(r); err == nil || r.Family == unix.AF_INET {
		return
	}
	dst, _ := netip.ParsePrefix(r.Dst.String())
	for _, from := range sources6 {
		_ = w.fromRoute(unix.RTM_DELROUTE, 0, dst, from, r.Priority, r.LinkIndex)
	}
}

// sources6 are those that drawn IPv6 routes are for.
var sources6 = []string{"fd30::/32", "fd66::/16"}

// fromRoute asks for a route by way of a device for packets of a source (CONFIG_IPV6_SUBTREES).
func (m *machine) fromRoute(kind netlink.HeaderType, flags netlink.HeaderFlags, dst netip.Prefix, from string, metric, link int) error {
	source := netip.MustParsePrefix(from)
	b := []byte{unix.AF_INET6, byte(dst.Bits()), byte(source.Bits()), 0, unix.RT_TABLE_MAIN, drawn, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	b = appendAttribute(b, unix.RTA_DST, dst.Addr().AsSlice())
	b = appendAttribute(b, unix.RTA_SRC, source.Addr().AsSlice())
	b = appendAttribute(b, unix.RTA_OIF, []byte{byte(link), byte(link >> 8), 0, 0})
	b = appendAttribute(b, unix.RTA_PRIORITY, []byte{byte(metric), byte(metric >> 8), 0, 0})
	return m.ask(kind, flags, b)
}

// drawDestination draws from so few addresses that many are in each other's prefixes.
func drawDestination(t *rapid.T) netip.Addr {
	low := byte(rapid.IntRange(0, 7).Draw(t, "low"))
	return rapid.SampledFrom([]netip.Addr{
		netip.AddrFrom4([4]byte{10, 66, 0, low}), netip.AddrFrom4([4]byte{10, 66, 1, low}), netip.AddrFrom4([4]byte{10, 66, 2, low}),
		netip.AddrFrom4([4]byte{192, 168, 1, 64 + low}), netip.AddrFrom4([4]byte{203, 0, 113, low}),
		netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x66, 15: low}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x66, 14: 1, 15: low}),
		netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: low}),
	}).Draw(t, "destination")
}

// drawWay adds a route. The kernel refuses some: their key is taken, or their gateway is not a
// neighbor.
func (w *wayTest) drawWay() {
	addr := drawDestination(w.T)
	lengths := []int{0, 1, 5, 7, 8, 16, 22, 24, 29, 30, 31, 32, 32}
	if addr.Is6() {
		lengths = []int{0, 1, 3, 7, 15, 16, 32, 64, 112, 120, 125, 127, 128, 128}
	}
	dst := netip.PrefixFrom(addr, rapid.SampledFrom(lengths).Draw(w.T, "length")).Masked()
	metric := rapid.SampledFrom([]int{0, 0, 5, 5, 300}).Draw(w.T, "metric")
	link := w.drawLink()
	if addr.Is6() && rapid.IntRange(0, 5).Draw(w.T, "for a source") == 0 {
		err := w.fromRoute(unix.RTM_NEWROUTE, netlink.Create, dst, rapid.SampledFrom(sources6).Draw(w.T, "source"), max(metric, 1), link)
		w.Logf("add %s from a source, metric %d, link %d: %v", dst, metric, link, err)
		return
	}
	route := &rtnl.Route{
		Table: unix.RT_TABLE_MAIN, Protocol: drawn, Priority: metric,
		Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
	}
	if addr.Is4() {
		route.Tos = rapid.SampledFrom([]int{0, 0, 0, 0, 8}).Draw(w.T, "tos")
	}
	w.drawHops(route, link)
	how := rapid.SampledFrom([]string{"add", "append", "prepend"}).Draw(w.T, "how")
	err := map[string]func(*rtnl.Route) error{"add": w.nl.RouteAdd, "append": w.nl.RouteAppend, "prepend": w.nl.RouteAddEcmp}[how](route)
	w.Logf("%s %s: %v", how, route, err)
}

func (w *wayTest) drawLink() int {
	name := rapid.SampledFrom([]string{"eth0", "eth0", "eth1", "idle", "ignored", "other0", "lo", topology.Bridge}).Draw(w.T, "link")
	return w.link(name).Attrs().Index
}

func (w *wayTest) drawHops(route *rtnl.Route, link int) {
	is4 := route.Dst.IP.To4() != nil
	gateway := func() net.IP {
		if is4 {
			return net.IPv4(192, 168, 1, byte(rapid.IntRange(98, 99).Draw(w.T, "gateway")))
		}
		return net.ParseIP(fmt.Sprintf("fd00:192:168:1::%d", rapid.IntRange(98, 99).Draw(w.T, "gateway")))
	}
	switch rapid.SampledFrom([]string{"link", "link", "link", "gateway", "onlink", "encap", "type", "multipath"}).Draw(w.T, "kind") {
	case "link":
		route.LinkIndex = link
		if is4 {
			route.Scope = rapid.SampledFrom([]rtnl.Scope{unix.RT_SCOPE_LINK, unix.RT_SCOPE_LINK, unix.RT_SCOPE_HOST, unix.RT_SCOPE_UNIVERSE}).Draw(w.T, "scope")
		}
	case "gateway":
		route.LinkIndex, route.Gw = w.eth0.Attrs().Index, gateway()
	case "onlink":
		route.LinkIndex, route.Gw, route.Flags = link, gateway(), unix.RTNH_F_ONLINK
	case "encap":
		route.LinkIndex = w.eth0.Attrs().Index
		route.Encap = &rtnl.IP6tnlEncap{ID: 5, Dst: net.ParseIP("fd00:192:168:1::9"), Src: net.IPv6zero}
	case "type":
		route.Type = rapid.SampledFrom([]int{unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT, unix.RTN_THROW}).Draw(w.T, "type")
	case "multipath":
		for range rapid.IntRange(2, 3).Draw(w.T, "hops") {
			hop := &rtnl.NexthopInfo{LinkIndex: w.drawLink()}
			if rapid.Bool().Draw(w.T, "by gateway") {
				hop.LinkIndex, hop.Gw = w.eth0.Attrs().Index, gateway()
			}
			route.MultiPath = append(route.MultiPath, hop)
		}
	}
}

// compare has each address as the InternalIP of a Node, and asks the kernel for it.
func (w *wayTest) compare(addrs []netip.Addr) {
	w.Forget()
	host, err := w.Facts(context.Background(), nil)
	w.need(err)
	all := make([]*topology.Node, 1, len(addrs)+1)
	all[0] = nodes(1)[0]
	for i, addr := range addrs {
		n := nodes(len(addrs) + 1)[i+1]
		n.Addrs = []netip.Addr{addr}
		n.PodCIDRs = slices.DeleteFunc(n.PodCIDRs, func(p netip.Prefix) bool { return p.Addr().Is4() != addr.Is4() })
		all = append(all, n)
	}
	o := options(w.machine)
	o.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9"), netip.MustParsePrefix("fd01::/16")}
	desired, problems := topology.Desired(o, host, all, topology.State{})
	for _, n := range all[1:] {
		i := slices.IndexFunc(desired.Routes, func(r *topology.Route) bool { return r.Dst == n.PodCIDRs[0] })
		kernel := w.kernelSays(n.Addrs[0])
		if i >= 0 {
			w.onLink(host, kernel, n.Addrs[0], desired.Routes[i].Dev)
			continue
		}
		p := slices.IndexFunc(problems, func(p problem.Problem) bool { return p.Node == n.Name })
		w.offLink(host, kernel, n.Addrs[0], problems[p].Message)
	}
}

// An answer is how the kernel reaches an address.
type answer struct {
	gateway bool
	dev     string
	err     error
}

func (w *wayTest) kernelSays(addr netip.Addr) answer {
	routes, err := w.nl.RouteGet(addr.AsSlice())
	if err != nil {
		return answer{err: err}
	}
	link, err := w.nl.LinkByIndex(routes[0].LinkIndex)
	w.need(err)
	return answer{gateway: routes[0].Gw != nil || routes[0].Via != nil, dev: link.Attrs().Name}
}

// onLink checks that a neighbor is one for the kernel too, on that device, or, where it has a
// choice among several, on any of theirs.
func (w *wayTest) onLink(host topology.Host, kernel answer, addr netip.Addr, dev string) {
	if kernel.err != nil || kernel.gateway || kernel.dev != dev && !w.chooses(host, addr, kernel.dev) {
		w.Fatalf("%s is on link by %s for topology, and %+v for the kernel, with the routes\n%s", addr, dev, kernel, table(host))
	}
}

// chooses reports whether one route to the address, of several with its prefix and metric, is
// by way of a device.
func (w *wayTest) chooses(host topology.Host, addr netip.Addr, dev string) bool {
	best := w.best(host, addr)
	return len(best) > 1 && slices.ContainsFunc(best, func(r topology.Route) bool { return r.Dev == dev })
}

// best returns the routes of the longest prefix and of these the lowest metric that the
// kernel may take to an address, by a look at each.
func (w *wayTest) best(host topology.Host, addr netip.Addr) []topology.Route {
	var best []topology.Route
	for _, r := range host.Routes {
		if !r.Dst.Contains(addr) || r.TOS != 0 || r.From.IsValid() || r.Dead {
			continue
		}
		switch {
		case len(best) == 0, r.Dst.Bits() > best[0].Dst.Bits(), r.Dst == best[0].Dst && r.Metric < best[0].Metric:
			best = []topology.Route{r}
		case r.Dst == best[0].Dst && r.Metric == best[0].Metric:
			best = append(best, r)
		}
	}
	return best
}

// offLink checks that what the kernel takes for a neighbor is none for a reason.
func (w *wayTest) offLink(host topology.Host, kernel answer, addr netip.Addr, detail string) {
	if kernel.err != nil || kernel.gateway {
		return
	}
	reasons := []string{"an address of this host", "the network address of", "the broadcast address of", "as wide as a default", "with an encapsulation", "other sources may not take"}
	if slices.ContainsFunc(reasons, func(r string) bool { return strings.Contains(detail, r) }) {
		return
	}
	if strings.Contains(detail, "no other machine") && (kernel.dev == "lo" || kernel.dev == topology.Bridge) || len(w.best(host, addr)) > 1 {
		return
	}
	w.Fatalf("%s is on link by %s for the kernel, but %s; the routes are\n%s", addr, kernel.dev, detail, table(host))
}

func table(host topology.Host) string {
	var b strings.Builder
	for _, r := range host.Routes {
		fmt.Fprintf(&b, "%s dead %t encap %t\n", r, r.Dead, r.Encap)
	}
	return b.String()
}
