package topology

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/problem"
)

// hostileHosts are machines of several kinds: one LAN, a /32 address on a routed
// LAN, and two links with a tunnel beside.
var hostileHosts = []string{defaultHost, `
links:
- {name: eth0, mtu: 1500, addrs: [192.168.1.11/32, "fd00:192:168:1::11/128"]}
routes:
- {dst: 192.168.1.0/24, dev: eth0, protocol: 4}
- {dst: "fd00:192:168:1::/64", dev: eth0, protocol: 4}
- {dst: 0.0.0.0/0, via: 192.168.1.1, dev: eth0}
nameservers: [10.244.53.53]
`, `
links:
- {name: eth0, mtu: 1500, addrs: [192.168.1.11/25, "fd00:192:168:1::11/64"]}
- {name: eth1, mtu: 1500, addrs: [192.168.1.211/25, 172.16.9.1/24]}
- {name: wg0, mtu: 1420, addrs: [10.9.0.1/32]}
routes:
- {dst: 192.168.1.0/25, dev: eth0, protocol: 2}
- {dst: 192.168.1.128/25, dev: eth1, protocol: 2}
- {dst: 172.16.9.0/24, dev: eth1, protocol: 2}
- {dst: "fd00:192:168:1::/64", dev: eth0, protocol: 2, metric: 256}
- {dst: 10.9.0.2/32, dev: wg0, protocol: 2}
- {dst: 10.0.0.0/8, dev: wg0, protocol: 4}
- {dst: 0.0.0.0/0, via: 192.168.1.1, dev: eth0}
`}

// oneMAC are two subnets whose tunnels have one MAC address.
var oneMAC = [2]string{"fd00:0:99:e6f9::/64", "fd00:0:aa:7176::/64"}

// A siege is a cluster of honest Nodes, and the attackers.
type siege struct {
	opts   Options
	host   Host
	honest []*Node
}

func drawSiege(t *rapid.T) siege {
	s := siege{opts: drawOptions(t)}
	s.honest = goodCluster(t, s.opts)
	if len(s.opts.ClusterCIDRs) == 0 && len(s.honest) > 2 {
		s.honest[2].PodCIDRs[1] = netip.MustParsePrefix(rapid.SampledFrom([]string{s.honest[2].PodCIDRs[1].String(), oneMAC[0], oneMAC[1]}).Draw(t, "node3's subnet"))
	}
	s.host = parseHost(&testing.T{}, rapid.SampledFrom(hostileHosts).Draw(t, "host"))
	if rapid.Bool().Draw(t, "service-cidr") {
		s.opts.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")}
	}
	if rapid.Bool().Draw(t, "api-server") {
		s.opts.APIServers = []netip.Addr{netip.MustParseAddr("10.20.30.40"), netip.MustParseAddr("10.244.77.1")}
	}
	if rapid.Bool().Draw(t, "node-cidr") {
		s.opts.NodeCIDRs = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/22"), netip.MustParsePrefix("fd00:192:168::/48")}
	}
	return s
}

// attackers draws Nodes of compromised kubelets, with the others' subnets and addresses in reach,
// and of any name and age.
func (s siege) attackers(t *rapid.T) []*Node {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "node0", "node10000", "zzz", "-"}), 1, 4, rapid.ID).Draw(t, "attackers")
	nodes := make([]*Node, 0, len(names))
	for _, name := range names {
		age := rapid.SampledFrom([]int{-100, -1, 0, 10, 50, 1000, 1 << 30}).Draw(t, "attacker's age")
		nodes = append(nodes, NodeFrom(kubeNode(name, age,
			rapid.SliceOfN(s.claim(), 0, 4).Draw(t, "claims"), rapid.SliceOfN(s.address(), 0, 6).Draw(t, "addresses"))))
	}
	return nodes
}

// claim draws a subnet: another Node's, as it is, wider or narrower, one of this
// host's, a free one, or no subnet at all.
func (s siege) claim() *rapid.Generator[string] {
	copied := rapid.Custom(func(t *rapid.T) string {
		p := rapid.SampledFrom(rapid.SampledFrom(s.honest).Draw(t, "of").PodCIDRs).Draw(t, "subnet")
		bits := rapid.SampledFrom([]int{0, 0, 0, -1, -2, -3, -4, -8, -20, 1, 2, 4, 8}).Draw(t, "more bits")
		return netip.PrefixFrom(p.Addr(), min(max(p.Bits()+bits, 0), p.Addr().BitLen())).Masked().String()
	})
	ours := rapid.SampledFrom([]string{
		"192.168.1.0/24", "10.244.53.0/24", "10.20.30.0/24", "10.244.77.0/24", "10.96.7.0/24", "172.16.9.0/24", "10.9.0.0/24",
		"fd00:192:168:1::/64", "fd00:10:96::/64", "127.0.0.0/24", "169.254.169.0/24", "224.0.0.0/24", "fe80::/64", "ff02::/64", "::/64",
		"0.0.0.0/0", "::/0", "2000::/3", "::ffff:10.244.2.0/120", oneMAC[0], oneMAC[1],
		"192.168.2.0/24", "fd00:192:168:2::/64",
	})
	free := rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf("10.244.%d.0/24", rapid.IntRange(100, 255).Draw(t, "free"))
	})
	anyLength := rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "v6") {
			return subnetIn(t, "fd00:10:244::/48", 80)
		}
		return subnetIn(t, "10.244.0.0/16", 32)
	})
	return rapid.OneOf(copied, copied, ours, free, anyLength, rapid.String())
}

// address draws an InternalIP: another Node's, one inside another's subnet, one of
// this host, a free one, in whatever form.
func (s siege) address() *rapid.Generator[string] {
	copied := rapid.Custom(func(t *rapid.T) string {
		addr := rapid.SampledFrom(rapid.SampledFrom(s.honest).Draw(t, "of").Addrs).Draw(t, "address")
		switch rapid.IntRange(0, 3).Draw(t, "form") {
		case 0:
			return netip.AddrFrom16(addr.As16()).String()
		case 1:
			return addr.String() + "%eth0"
		}
		return addr.String()
	})
	inside := rapid.Custom(func(t *rapid.T) string {
		p := rapid.SampledFrom(rapid.SampledFrom(s.honest).Draw(t, "of").PodCIDRs).Draw(t, "subnet")
		return p.Addr().Next().Next().String()
	})
	other := rapid.SampledFrom([]string{
		"192.168.1.11", "192.168.1.1", "192.168.1.0", "192.168.1.255", "192.168.1.66", "192.168.1.211", "10.244.53.53", "10.20.30.40",
		"fd00:192:168:1::11", "fd00:192:168:1::66", "fe80::1", "8.8.8.8", "172.16.9.9", "10.9.0.2", "127.0.0.1", "",
		"192.168.2.66", "fd00:192:168:2::66", "224.0.0.9", "ff02::9", "255.255.255.255", "169.254.169.254", "10.96.0.1", "2001:db8::1",
	})
	return rapid.OneOf(copied, copied, inside, other, rapid.String())
}

// unharmed fails unless all objects because of honest Nodes are still there, and no attacker keeps
// this node from being ready.
func unharmed(t *rapid.T, before, after State, problems []problem.Problem) {
	for _, r := range before.Routes {
		if !slices.ContainsFunc(after.Routes, func(o *Route) bool { return SameRoute(o, r) }) {
			t.Fatalf("lost %v; now %v; problems %v", r, after.Routes, problems)
		}
		if i := slices.IndexFunc(after.Routes, func(o *Route) bool { return o.Dst != r.Dst && o.Dst.Overlaps(r.Dst) }); i >= 0 {
			t.Fatalf("%v takes addresses of %v; problems %v", after.Routes[i], r, problems)
		}
		addr := before.Reach(r.Dst).InternalIP
		if i := slices.IndexFunc(after.Routes, func(o *Route) bool { return o.Dst.Contains(addr) }); i >= 0 {
			t.Fatalf("%v takes the address %s of a Node; problems %v", after.Routes[i], addr, problems)
		}
	}
	for _, p := range before.Masquerade.Cluster {
		if !slices.Contains(after.Masquerade.Cluster, p) {
			t.Fatalf("lost set element %v of %v", p, after.Masquerade.Cluster)
		}
	}
	for _, a := range before.Masquerade.Nodes {
		if !slices.Contains(after.Masquerade.Nodes, a) {
			t.Fatalf("lost set element %v of %v", a, after.Masquerade.Nodes)
		}
	}
	for _, e := range before.FDB {
		if !slices.Contains(after.FDB, e) {
			t.Fatalf("lost %v; now %v; problems %v", e, after.FDB, problems)
		}
	}
	for _, a := range before.Masquerade.Endpoints {
		if !slices.Contains(after.Masquerade.Endpoints, a) {
			t.Fatalf("packets of %v are dropped; now accepted are those of %v", a, after.Masquerade.Endpoints)
		}
	}
	if !slices.Equal(before.Tunnels, after.Tunnels) || !slices.Equal(before.Addresses, after.Addresses) || !slices.Equal(before.Masquerade.Tunnels, after.Masquerade.Tunnels) {
		t.Fatalf("tunnels became %v, %v, %v, were %v, %v, %v", after.Tunnels, after.Addresses, after.Masquerade.Tunnels, before.Tunnels, before.Addresses, before.Masquerade.Tunnels)
	}
	if !slices.Equal(before.Masquerade.Sources, after.Masquerade.Sources) || !before.CNI.Equal(after.CNI) {
		t.Fatalf("masquerading or the CNI config became %v, %v", after.Masquerade, after.CNI)
	}
	if !reflect.DeepEqual(before.Sysctls, after.Sysctls) {
		t.Fatalf("settings became %v, were %v", after.Sysctls, before.Sysctls)
	}
	for _, p := range problems {
		if p.BlocksReady {
			t.Fatalf("another Node keeps us from being ready: %v", p)
		}
	}
}

// TestSiege has attackers join, change their Nodes, and leave, with routes in place: no honest
// Node's objects change, and in the end the State is as without them.
func TestSiege(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSiege(t)
		before, _ := Desired(s.opts, s.host, s.honest, withKernel(State{}))
		state := before
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			var problems []problem.Problem
			state, problems = Desired(s.opts, s.host, append(s.attackers(t), s.honest...), withKernel(state))
			unharmed(t, before, state, problems)
			s.grantsInBounds(t, state)
		}
		state, _ = Desired(s.opts, s.host, s.honest, withKernel(state))
		if !slices.EqualFunc(state.Routes, before.Routes, SameRoute) || !reflect.DeepEqual(state.Masquerade, before.Masquerade) {
			t.Fatalf("they left %v, %v", state.Routes, state.Masquerade)
		}
	})
}

// TestSiegeOfARestartedAgent has an agent find attackers at its start, in a table of before: what tunnels
// have for honest Nodes stays, as their routes do, because the table has the InternalIP of each. Attackers
// that state that as well are left out: routes and tunnels lead to it, whichever Node has the subnet.
func TestSiegeOfARestartedAgent(t *testing.T) {
	host := testHost(t)
	rapid.Check(t, func(t *rapid.T) {
		s := drawSiege(t)
		s.host = host                        // on which all honest Nodes are reached
		if s.opts.OffLink != OffLinkReport { // a gateway does not show which Node is behind it
			return
		}
		before, _ := Desired(s.opts, s.host, s.honest, withKernel(State{}))
		attackers := slices.DeleteFunc(s.attackers(t), func(n *Node) bool {
			return slices.ContainsFunc(s.honest, func(h *Node) bool {
				return slices.ContainsFunc(n.Addrs, func(a netip.Addr) bool { return slices.Contains(h.Addrs, a) })
			})
		})
		restarted := withKernel(before)
		restarted.granted = nil
		after, problems := Desired(s.opts, s.host, append(attackers, s.honest...), restarted)
		unharmed(t, before, after, problems)
		s.grantsInBounds(t, after)
	})
}

// TestSiegeFromWithin has this node's own kubelet write any status: this node may then be unfit for
// pods, but its routes to others stay.
func TestSiegeFromWithin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSiege(t)
		before, _ := Desired(s.opts, s.host, s.honest, withKernel(State{}))
		own := *s.honest[0]
		own.Addrs = NodeFrom(kubeNode(own.Name, 0, nil, rapid.SliceOfN(s.address(), 0, 20).Draw(t, "own addresses"))).Addrs
		after, problems := Desired(s.opts, s.host, append([]*Node{&own}, s.honest[1:]...), withKernel(before))
		for _, r := range before.Routes {
			if !slices.ContainsFunc(after.Routes, func(have *Route) bool { now := *have; now.Src = r.Src; return now == *r }) {
				t.Fatalf("lost %v; now %v; problems %v", r, after.Routes, problems)
			}
		}
		if after.CNI == nil {
			t.Fatalf("the CNI config went away: %v", problems)
		}
	})
}

// list draws a Node list with attackers in it, in which our own Node may be missing or new, with an
// empty table or one from before the attack.
func (s siege) list(t *rapid.T) (nodes []*Node, actual State) {
	if rapid.Bool().Draw(t, "routes in place") {
		actual, _ = Desired(s.opts, s.host, s.honest, withKernel(State{}))
	}
	nodes = append(s.attackers(t), s.honest...)
	own := slices.Index(nodes, s.honest[0])
	switch rapid.IntRange(0, 3).Draw(t, "our own Node") {
	case 0:
		nodes = slices.Delete(nodes, own, own+1)
	case 1:
		fresh := *nodes[own]
		fresh.PodCIDRs = nil
		nodes[own] = &fresh
	}
	return nodes, withKernel(actual)
}

// TestSiegeStaysInBounds checks every route that hostile lists lead to.
func TestSiegeStaysInBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSiege(t)
		nodes, actual := s.list(t)
		state, _ := Desired(s.opts, s.host, nodes, actual)
		lengths := map[bool]Lengths{}
		for i, r := range state.Routes {
			if i > 0 && state.Routes[i-1].Dst.Overlaps(r.Dst) {
				t.Fatalf("%v overlaps %v", r, state.Routes[i-1])
			}
			is4, bits := r.Dst.Addr().Is4(), r.Dst.Bits()
			lengths[is4] = lengths[is4].union(Lengths{bits, bits})
			s.inBounds(t, state, r)
		}
		s.grantsInBounds(t, state)
		own := slices.IndexFunc(nodes, func(n *Node) bool { return n.Name == s.opts.NodeName })
		known := own >= 0 && len(nodes[own].PodCIDRs) > 0
		for is4, have := range lengths {
			s.checkLengths(t, is4, known, have)
		}
	})
}

// checkLengths bounds the lengths of one pass. While neither our own Node nor a table is known,
// Nodes may introduce wide ones, but never the whole range.
func (s siege) checkLengths(t *rapid.T, is4, known bool, have Lengths) {
	want := acceptable(s.opts, s.honest[0], is4)
	switch {
	case known || s.opts.maskSizes(is4) != (Lengths{}):
	case len(s.opts.ClusterCIDRs) == 0 && have.Widest == have.Narrowest:
		return
	case is4:
		want = Lengths{17, 32}
	default:
		want = Lengths{49, 128}
	}
	if !want.has(have.Widest) || !want.has(have.Narrowest) {
		t.Fatalf("routes are %s, want %s", have, want)
	}
}

func (s siege) inBounds(t *rapid.T, state State, r *Route) {
	if len(s.opts.ClusterCIDRs) > 0 && !within(s.opts.ClusterCIDRs, r.Dst) {
		t.Fatalf("outside --cluster-cidr: %v", r)
	}
	forbidden := slices.Clone(s.opts.ServiceCIDRs)
	for _, addr := range slices.Concat(s.opts.APIServers, s.host.Nameservers) {
		forbidden = append(forbidden, single(addr))
	}
	for _, link := range s.host.Links {
		for _, p := range link.Addrs {
			forbidden = append(forbidden, p.Masked())
		}
	}
	for _, route := range s.host.Routes {
		switch {
		case route.Via.IsValid():
			forbidden = append(forbidden, single(route.Via))
		case route.Protocol == 2:
			forbidden = append(forbidden, route.Dst)
		}
	}
	for _, p := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"} {
		forbidden = append(forbidden, netip.MustParsePrefix(p))
	}
	if i := slices.IndexFunc(forbidden, r.Dst.Overlaps); i >= 0 {
		t.Fatalf("covers %v: %v", forbidden[i], r)
	}
	if r.Type == Unicast {
		s.nextHopInBounds(t, state, r)
	}
}

// nextHopInBounds checks the next hop of a route, or the end of its tunnel.
func (s siege) nextHopInBounds(t *rapid.T, state State, r *Route) {
	to := state.Reach(r.Dst)
	ok := to.Path == PathDirect && r.Via == to.InternalIP && !isTunnel(r.Dev)
	switch to.Path {
	case PathTunnel:
		mac := TunnelMAC(r.Dst)
		ok = isTunnel(r.Dev) && slices.Contains(state.Neighbors, Neighbor{r.Dev, r.Via, mac}) && slices.Contains(state.FDB, FDBEntry{r.Dev, mac, to.InternalIP})
	case PathGateway:
		ok = slices.ContainsFunc(s.host.Routes, func(foreign Route) bool { return foreign.Via == r.Via && foreign.Dev == r.Dev }) &&
			!slices.ContainsFunc(state.Routes, func(ours *Route) bool { return ours.Dst.Contains(r.Via) })
	}
	if !ok || !s.opts.allows(to.Path) {
		t.Fatalf("%v does not lead to %+v", r, to)
	}
	s.addrInBounds(t, state, to.InternalIP, to.Path == PathDirect)
}

// addrInBounds checks an address to which packets are sent, or from which a tunnel accepts them. Packets to
// one that is not a next hop take routes of ours, if there is one to it.
func (s siege) addrInBounds(t fataler, state State, addr netip.Addr, nextHop bool) {
	for _, link := range s.host.Links {
		for _, p := range link.Addrs {
			if p.Addr() == addr || p.Bits() < 31 && addr.Is4() && (addr == p.Masked().Addr() || addr == Last(p.Masked())) {
				t.Fatalf("%s is this host's", addr)
			}
		}
	}
	switch taken := slices.ContainsFunc(state.Routes, func(r *Route) bool { return r.Dst.Contains(addr) }); {
	case !unicast(addr) || addr.Zone() != "":
		t.Fatalf("%s is not a unicast address", addr)
	case len(s.opts.NodeCIDRs) > 0 && !within(s.opts.NodeCIDRs, single(addr)):
		t.Fatalf("%s is outside --node-cidr", addr)
	case taken && !nextHop || within(s.opts.ClusterCIDRs, single(addr)):
		t.Fatalf("%s is inside a pod range", addr)
	}
}

// A fataler is a *rapid.T or *testing.T.
type fataler interface{ Fatalf(string, ...any) }

// grantsInBounds checks that tunnels have nothing but what granted subnets need, and accept packets of
// their Nodes alone, and that no Node changes how pods reach an address that is not on link.
func (s siege) grantsInBounds(t fataler, state State) {
	routes := 0
	for _, r := range state.Routes {
		if isTunnel(r.Dev) {
			routes++
		}
	}
	if len(state.FDB) != routes || len(state.Neighbors) != routes {
		t.Fatalf("for %d routes there are %v and %v", routes, state.FDB, state.Neighbors)
	}
	if state.Masquerade == nil {
		return
	}
	for _, addr := range state.Masquerade.Nodes {
		onLink := func(c *claim) bool { return c.path == PathDirect && c.addr == addr }
		if !within(s.opts.NodeCIDRs, single(addr)) && !slices.ContainsFunc(state.granted, onLink) {
			t.Fatalf("packets of pods to %s, of any machine, are not masqueraded", addr)
		}
	}
	for _, addr := range state.Masquerade.Endpoints {
		of := func(c *claim) bool { return c.subnet.Addr().Is4() == addr.Is4() && slices.Contains(c.node.Addrs, addr) }
		if !slices.ContainsFunc(state.granted, of) {
			t.Fatalf("packets are accepted from %s, of no Node with a granted subnet", addr)
		}
		s.addrInBounds(t, state, addr, false)
	}
}

// TestSiegeInAnyOrder shuffles hostile lists: the result is the same, including the messages of
// Problems.
func TestSiegeInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSiege(t)
		nodes, actual := s.list(t)
		first, problems := Desired(s.opts, s.host, nodes, actual)
		second, others := Desired(s.opts, s.host, rapid.Permutation(nodes).Draw(t, "order"), actual)
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%+v\n%+v", first, second)
		}
		if !slices.Equal(problems, others) {
			t.Fatalf("%v\n%v", problems, others)
		}
	})
}

// If a kubelet claims an address that all pods need, its own subnet is misdirected, and their
// packets to the address are masqueraded as before.
func TestWhatPodsNeedStaysMasqueraded(t *testing.T) {
	host := parseHost(t, defaultHost)
	host.Nameservers = []netip.Addr{netip.MustParseAddr("192.168.1.53")}
	opts := Options{NodeName: "node1", Masquerade: true, Bridge: Bridge}
	nodes := []*Node{
		NodeFrom(kubeNode("node1", 3, []string{"10.244.1.0/24"}, []string{"192.168.1.11"})),
		NodeFrom(kubeNode("node2", 2, []string{"10.244.2.0/24"}, []string{"192.168.1.12"})),
		NodeFrom(kubeNode("gateway", 1, []string{"10.244.3.0/24"}, []string{"192.168.1.1"})),
		NodeFrom(kubeNode("nameserver", 1, []string{"10.244.4.0/24"}, []string{"192.168.1.53"})),
	}
	state, problems := Desired(opts, host, nodes, withKernel(State{}))
	if want := []netip.Addr{netip.MustParseAddr("192.168.1.12")}; !slices.Equal(state.Masquerade.Nodes, want) {
		t.Errorf("not masqueraded is what goes to %v, want %v", state.Masquerade.Nodes, want)
	}
	if len(state.Routes) != 4 || len(problems) > 0 {
		t.Errorf("routes %v, problems %v", state.Routes, problems)
	}
}
