package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/problem"
)

// changedHost draws a changed machine of a cluster: addresses on devices of load balancers and of
// other networks, routes that appear and vanish, nameservers anywhere.
func changedHost(t *rapid.T, nodes []*Node) Host {
	var addrs []netip.Addr
	for _, n := range nodes {
		addrs = append(addrs, n.Addrs...)
		for _, p := range n.PodCIDRs {
			addrs = append(addrs, p.Addr(), p.Addr().Next().Next())
		}
	}
	for _, a := range []string{"192.168.1.1", "192.168.1.77", "fd00:192:168:1::1", "10.99.0.1"} {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	addr := rapid.SampledFrom(addrs)
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := addr.Draw(t, "address")
		host := rapid.SampledFrom([]int{0, 0, 0, 1, 8, 16, 24, 31, 64, 128}).Draw(t, "host bits")
		return netip.PrefixFrom(a, max(a.BitLen()-host, 0))
	})
	h := Host{Nameservers: rapid.SliceOfN(addr, 0, 2).Draw(t, "nameservers"), Ports: 1, Leases: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}
	for _, name := range []string{"docker0", "eth0", "eth1", "flannel.1", "kube-ipvs0"} {
		link := Link{Name: name, MTU: 1500, Addrs: rapid.SliceOfN(prefix, 0, 2).Draw(t, "addresses of "+name)}
		if name == "eth0" && rapid.Bool().Draw(t, "eth0 has ours") {
			link.Addrs = append(link.Addrs, netip.MustParsePrefix("192.168.1.11/24"), netip.MustParsePrefix("fd00:192:168:1::11/64"))
		}
		h.Links = append(h.Links, link)
	}
	for range rapid.IntRange(0, 8).Draw(t, "routes") {
		h.Routes = append(h.Routes, changedRoute(t, prefix, addr))
	}
	for _, lan := range []string{"192.168.1.0/24", "fd00:192:168:1::/64"} {
		if rapid.Bool().Draw(t, "connected "+lan) {
			h.Routes = append(h.Routes, Route{Dst: netip.MustParsePrefix(lan), Dev: "eth0", Protocol: protocolKernel})
		}
	}
	return h
}

func changedRoute(t *rapid.T, prefix *rapid.Generator[netip.Prefix], addr *rapid.Generator[netip.Addr]) Route {
	r := Route{
		Dst: prefix.Draw(t, "destination").Masked(), Dev: rapid.SampledFrom([]string{"", "eth0", "eth1", "docker0", "flannel.1", Bridge}).Draw(t, "device"),
		Type:     rapid.SampledFrom([]RouteType{Unicast, Unicast, Unicast, "blackhole", Unreachable, throw}).Draw(t, "type"),
		Metric:   rapid.SampledFrom([]uint32{0, 100, MetricPeer, PeerMetric(netip.MustParsePrefix("10.244.1.0/24")), MetricOwn, 5000}).Draw(t, "metric"),
		Protocol: rapid.SampledFrom([]uint8{protocolKernel, 4, 16}).Draw(t, "protocol"),
		Dead:     rapid.IntRange(0, 5).Draw(t, "dead") == 0, Encap: rapid.IntRange(0, 9).Draw(t, "encap") == 0,
	}
	if r.Type == Unicast && rapid.Bool().Draw(t, "by gateway") {
		r.Via = addr.Draw(t, "gateway")
	}
	return r
}

// TestTheHostAloneRemovesNothing changes a machine in an unchanged cluster, with a running agent or
// a restarted one: no route of ours is removed, none moves except to where it would be from the
// start on that machine, and nothing that pods need is removed.
func TestTheHostAloneRemovesNothing(t *testing.T) {
	static := parseHost(t, defaultHost)
	advertised := parseHost(t, strings.Replace(defaultHost, `via: "fd00:192:168:1::1"`, `via: "fe80::1"`, 1))
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.SampledFrom([]Host{static, advertised}).Draw(t, "host")
		opts := drawOptions(t)
		nodes := goodCluster(t, opts)
		if rapid.Bool().Draw(t, "second addresses") {
			for i, n := range nodes {
				n.Addrs = append(n.Addrs, netip.MustParseAddr(fmt.Sprintf("192.168.1.%d", 150+i)), netip.MustParseAddr(fmt.Sprintf("fd00:192:168:1::%d", 150+i)))
			}
		}
		before, _ := Desired(opts, host, nodes, withKernel(State{}))
		before, _ = Desired(opts, host, nodes, withKernel(before))
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			changed := changedHost(t, nodes)
			if rapid.Bool().Draw(t, "agent started anew") && opts.OffLink != OffLinkUnderlay { // whose routes do not show the Nodes
				before.granted, before.retired = nil, nil
			}
			after, problems := Desired(opts, changed, nodes, withKernel(before))
			fresh, _ := Desired(opts, changed, nodes, withKernel(State{}))
			unremoved(t, changed, before, after, fresh, problems)
			before = after
		}
	})
}

func unremoved(t *rapid.T, host Host, before, after, fresh State, problems []problem.Problem) {
	for _, r := range before.Routes {
		i := slices.IndexFunc(after.Routes, func(a *Route) bool { return CompareRoutes(a, r) == 0 && a.Type == r.Type })
		if i < 0 && after.Reach(r.Dst).Path == PathUnderlay {
			continue
		}
		if i < 0 {
			t.Fatalf("lost %q of\n%+v\nproblems %v", r, host, problems)
		}
		now := after.Routes[i]
		j := slices.IndexFunc(fresh.Routes, func(f *Route) bool { return CompareRoutes(f, r) == 0 })
		if moved := now.Via != r.Via || now.Dev != r.Dev; moved && j >= 0 && !SameRoute(now, fresh.Routes[j]) {
			t.Fatalf("%q became %q, and not %q; problems %v", r, now, fresh.Routes[j], problems)
		}
	}
	tunnelsRemain(t, before, after)
	if !before.CNI.Equal(after.CNI) || !slices.Equal(before.Masquerade.Sources, after.Masquerade.Sources) {
		t.Fatalf("the CNI config became %v, masquerading %v; problems %v", after.CNI, after.Masquerade, problems)
	}
	for _, p := range before.Masquerade.Cluster {
		if !within(after.Masquerade.Cluster, p) {
			t.Fatalf("lost set element %v of %v", p, after.Masquerade.Cluster)
		}
	}
	for _, a := range before.Masquerade.Nodes {
		hop := func(r *Route) bool { to := after.Reach(r.Dst); return to.InternalIP == a && to.Path == PathDirect }
		if !slices.Contains(after.Masquerade.Nodes, a) && !needed(host, a) && slices.ContainsFunc(after.Routes, hop) {
			t.Fatalf("lost set element %v of %v", a, after.Masquerade.Nodes)
		}
	}
}

// tunnelsRemain fails unless the tunnels are there, and on them what their routes need.
func tunnelsRemain(t *rapid.T, before, after State) {
	for _, tunnel := range before.Tunnels {
		if !slices.ContainsFunc(after.Tunnels, func(a Tunnel) bool { return a.Name == tunnel.Name }) {
			t.Fatalf("lost %v", tunnel)
		}
	}
	for _, r := range after.Routes {
		mac := TunnelMAC(r.Dst)
		if isTunnel(r.Dev) && (!slices.Contains(after.Neighbors, Neighbor{r.Dev, r.Via, mac}) ||
			!slices.ContainsFunc(after.FDB, func(e FDBEntry) bool { return e.Dev == r.Dev && e.MAC == mac })) {
			t.Fatalf("%v lacks its neighbor or FDB entry: %v %v", r, after.Neighbors, after.FDB)
		}
	}
}

// needed reports whether all pods need an address: packets to it stay masqueraded.
func needed(host Host, addr netip.Addr) bool {
	return slices.Contains(host.Nameservers, addr) ||
		slices.ContainsFunc(host.Routes, func(r Route) bool { return r.Via == addr && wide(r.Dst) })
}

// While our own Node is missing, its InternalIP is unknown as the preferred source, which stays.
func TestSourceStaysWhileOurNodeIsAway(t *testing.T) {
	host := parseHost(t, defaultHost)
	host.Links[1].Addrs = append(host.Links[1].Addrs, netip.MustParsePrefix("192.168.1.200/24"))
	opts, nodes := parseOptions(t, ""), parseNodes(t, "node1 3h 10.244.1.0/24 192.168.1.11\nnode2 2h 10.244.2.0/24 192.168.1.12\n")
	before, _ := Desired(opts, host, nodes, withKernel(State{}))
	if before.Routes[1].Src != nodes[0].Addrs[0] {
		t.Fatalf("the source of %q is not our InternalIP", before.Routes[1])
	}
	after, _ := Desired(opts, host, nodes[1:], withKernel(before))
	if !slices.EqualFunc(before.Routes, after.Routes, SameRoute) {
		t.Errorf("%v became %v", before.Routes, after.Routes)
	}
}

// A route that was removed with its link is restored with it, even if the Node's address is on
// kube-ipvs0 by then. A Node that has such an address for the first time gets none.
func TestRouteComesBackBesideAnAddressElsewhere(t *testing.T) {
	host := parseHost(t, defaultHost)
	ipvs := Link{Name: ipvsDevice, MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.1.12/32")}}
	opts := parseOptions(t, "")
	nodes := parseNodes(t, "node1 3h 10.244.1.0/24 192.168.1.11\nnode2 2h 10.244.2.0/24 192.168.1.12\n")
	down := Host{Links: host.Links, Routes: nil}
	down.Links = append(slices.Clone(host.Links), ipvs)
	up := down
	up.Routes = host.Routes
	leads := func(s State) bool {
		return slices.ContainsFunc(s.Routes, func(r *Route) bool { return r.Via == netip.MustParseAddr("192.168.1.12") && r.Dev == "eth0" })
	}
	for name, first := range map[string]Host{"had a route": host, "is new": up} {
		before, _ := Desired(opts, first, nodes, State{})
		for _, h := range []Host{down, down, up} {
			actual := State{}.After(before) // the kernel has lost all routes
			before, _ = Desired(opts, h, nodes, actual)
		}
		if want := name == "had a route"; leads(before) != want {
			t.Errorf("a Node that %s: %v", name, before.Routes)
		}
	}
}
