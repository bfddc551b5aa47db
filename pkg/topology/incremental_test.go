package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A walk is a sequence of inputs that differ by one event.
type walk struct {
	siege
	nodes  []*Node
	actual State
}

// step changes one thing.
func (w *walk) step(t *rapid.T) {
	switch rapid.SampledFrom([]string{"attackers", "leave", "join", "address", "route", "route", "fdb", "own", "host", "former", "former", "forget", "sysctl", "nothing", "swap"}).Draw(t, "event") {
	case "attackers":
		w.nodes = slices.DeleteFunc(w.nodes, func(n *Node) bool { return !slices.Contains(w.honest, n) })
		w.nodes = append(w.nodes, w.attackers(t)...)
	case "leave":
		i := rapid.IntRange(0, len(w.nodes)-1).Draw(t, "who")
		w.nodes[i] = w.nodes[len(w.nodes)-1]
		w.nodes = w.nodes[:len(w.nodes)-1]
	case "join":
		if n := rapid.SampledFrom(w.honest).Draw(t, "who"); !slices.ContainsFunc(w.nodes, func(m *Node) bool { return m.Name == n.Name }) {
			w.nodes = append(w.nodes, n)
		}
	case "address":
		i := rapid.IntRange(0, len(w.nodes)-1).Draw(t, "who")
		changed := *w.nodes[i]
		changed.Addrs = NodeFrom(kubeNode("", 0, nil, rapid.SliceOfN(w.address(), 0, 3).Draw(t, "addresses"))).Addrs
		w.nodes[i] = &changed
	case "route":
		w.changeRoute(t)
	case "fdb":
		if n := len(w.actual.FDB); n > 0 {
			w.actual.FDB = slices.Clone(w.actual.FDB)
			w.actual.FDB[rapid.IntRange(0, n-1).Draw(t, "which")].Dst = rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("192.168.1.99")}).Draw(t, "endpoint")
		}
	case "own":
		if i := slices.IndexFunc(w.nodes, func(n *Node) bool { return n.Name == w.opts.NodeName }); i >= 0 {
			own := *w.nodes[i]
			own.PodCIDRs = own.PodCIDRs[:rapid.IntRange(0, len(own.PodCIDRs)).Draw(t, "podCIDRs left")]
			w.nodes[i] = &own
		}
	case "host":
		w.host = parseHost(&testing.T{}, rapid.SampledFrom(append(hostileHosts, ipvsHost, loHost)).Draw(t, "host"))
	case "former":
		w.formerSubnet()
	case "forget":
		w.actual.granted = nil
	case "sysctl":
		w.actual = withKernel(w.actual)
		w.actual.Sysctls[SysctlForward4] = "0"
	case "swap":
		slices.Reverse(w.nodes)
	}
	if len(w.nodes) == 0 {
		w.nodes = append(w.nodes, w.honest...)
	}
}

// ipvsHost has a device of kube-proxy with an address of a Node.
const ipvsHost = `
links:
- {name: eth0, mtu: 1500, addrs: [192.168.1.11/24, "fd00:192:168:1::11/64"]}
- {name: kube-ipvs0, mtu: 1500, addrs: [192.168.1.12/32]}
routes:
- {dst: 192.168.1.0/24, dev: eth0, protocol: 2}
- {dst: "fd00:192:168:1::/64", dev: eth0, protocol: 2, metric: 256}
- {dst: 0.0.0.0/0, via: 192.168.1.1, dev: eth0}
`

// loHost has the InternalIP on lo.
const loHost = `
links:
- {name: lo, mtu: 65536, addrs: [127.0.0.1/8, 192.168.1.11/32, "fd00:192:168:1::11/128"], loopback: true}
- {name: eth0, mtu: 1500, addrs: [172.16.0.1/31]}
- {name: eth1, mtu: 1400, addrs: [172.16.1.1/31]}
routes:
- {dst: 172.16.0.0/31, dev: eth0, protocol: 2}
- {dst: 172.16.1.0/31, dev: eth1, protocol: 2}
- {dst: 192.168.1.12/32, via: 172.16.1.0, dev: eth1}
- {dst: 192.168.1.0/24, via: 172.16.0.0, dev: eth0}
- {dst: "fd00:192:168:1::/64", via: "fd00::1", dev: eth0}
`

// formerSubnet has a pod with an address of a former subnet of ours come, or leave.
func (w *walk) formerSubnet() {
	w.host.Ports, w.host.Leases = 1-w.host.Ports, nil
	if w.host.Ports > 0 && w.actual.CNI != nil {
		conf := *w.actual.CNI
		conf.Subnets = []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}
		w.host.Leases, w.actual.CNI = []netip.Addr{netip.MustParseAddr("10.244.2.9")}, &conf
	}
}

// changeRoute removes a route from the kernel, or has another program lead it to another next hop.
func (w *walk) changeRoute(t *rapid.T) {
	n := len(w.actual.Routes)
	if n == 0 {
		return
	}
	i := rapid.IntRange(0, n-1).Draw(t, "which")
	w.actual.Routes = slices.Clone(w.actual.Routes)
	if rapid.Bool().Draw(t, "delete") {
		w.actual.Routes = slices.Delete(w.actual.Routes, i, i+1)
		return
	}
	r := *w.actual.Routes[i]
	w.actual.Routes[i] = &r
	if r.Via.Is4() {
		r.Via = netip.MustParseAddr(rapid.SampledFrom([]string{"192.168.1.12", "192.168.1.13", "192.168.1.99"}).Draw(t, "via"))
	}
}

// TestIncremental compares each result of an Incremental with that of Desired.
func TestIncremental(t *testing.T) {
	for name, set := range map[string]func(*Options){
		"never":        func(*Options) {},
		"gateway":      func(o *Options) { o.OffLink = OffLinkGateway },
		"underlay":     func(o *Options) { o.OffLink = OffLinkUnderlay },
		"cross-subnet": func(o *Options) { o.Encapsulation = EncapsulateCrossSubnet },
		"always":       func(o *Options) { o.Encapsulation = EncapsulateAlways },
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := walk{siege: drawSiege(t), actual: withKernel(State{})}
				set(&w.opts)
				if rapid.Bool().Draw(t, "non-masquerade-cidr") {
					w.opts.NonMasqueradeCIDRs = prefixes("10.244.2.0/25", "10.244.4.0/22", "172.16.0.0/12")
				}
				w.nodes = slices.Clone(w.honest)
				var x Incremental
				for range rapid.IntRange(1, 20).Draw(t, "steps") {
					got := w.check(t, &x)
					if rapid.IntRange(0, 3).Draw(t, "apply") > 0 {
						w.actual = withKernel(got)
					} else {
						w.actual = w.actual.After(got)
					}
					for range rapid.IntRange(1, 2).Draw(t, "events") {
						w.step(t)
					}
				}
			})
		})
	}
}

// check returns the result of an Incremental, which must be that of Desired.
func (w *walk) check(t *rapid.T, x *Incremental) State {
	want, problems := Desired(w.opts, w.host, w.nodes, w.actual)
	got, others := x.Desired(w.opts, w.host, slices.Clone(w.nodes), w.actual)
	if diff := stateDiff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if !slices.Equal(problems, others) {
		t.Fatalf("problems are\n%v\nwant\n%v", others, problems)
	}
	if want, got := Concerns(w.opts, w.nodes), x.Concerns(w.opts, slices.Clone(w.nodes)); !slices.Equal(got, want) {
		t.Fatalf("concerns are %v, want %v", got, want)
	}
	return got
}

// TestIncrementalUpdates has one thing change at a time in a large cluster: the result is right, and
// no full computation was needed.
func TestIncrementalUpdates(t *testing.T) {
	const n = 500
	opts := Options{NodeName: "node1", Masquerade: true, Bridge: Bridge}
	changed := func(n *Node, change func(*Node)) *Node {
		c := *n
		change(&c)
		return &c
	}
	for name, c := range map[string]struct {
		nodes  func([]*Node) []*Node
		actual func(*State)
	}{
		"nothing":       {},
		"a Node leaves": {nodes: func(all []*Node) []*Node { return all[:len(all)-1] }},
		"a Node joins":  {nodes: func(all []*Node) []*Node { return append(all, manyNodes(n + 1)[n]) }},
		"a Node moves": {nodes: func(all []*Node) []*Node {
			all[7] = changed(all[7], func(m *Node) { m.Addrs = []netip.Addr{netip.MustParseAddr("172.20.200.1")} })
			return all
		}},
		"a Node leaves, another takes its place in the list": {nodes: func(all []*Node) []*Node {
			all[7] = all[len(all)-1]
			return all[:len(all)-1]
		}},
		"a Node claims two subnets of others": {nodes: func(all []*Node) []*Node {
			return append(all, &Node{Name: "wide", PodCIDRs: prefixes("10.128.6.0/23"), Addrs: all[9].Addrs})
		}},
		"a route is gone":         {actual: func(s *State) { s.Routes = slices.Delete(slices.Clone(s.Routes), 7, 8) }},
		"a route leads elsewhere": {actual: func(s *State) { s.divert(7, s.Routes[8].Via) }},
		"a route to no Node's subnet": {actual: func(s *State) {
			s.Routes = append(slices.Clone(s.Routes), &Route{Dst: netip.MustParsePrefix("10.255.0.0/24"), Metric: MetricPeer})
		}},
		"a setting": {actual: func(s *State) { s.Sysctls = map[string]string{SysctlForward4: "0"} }},
	} {
		t.Run(name, func(t *testing.T) {
			var x Incremental
			nodes, actual := manyNodes(n), withKernel(State{})
			for range 2 {
				desired, _ := x.Desired(opts, largeHost(), nodes, actual)
				actual = withKernel(desired)
			}
			if c.nodes != nil {
				nodes = c.nodes(slices.Clone(nodes))
			}
			if c.actual != nil {
				c.actual(&actual)
			}
			want, problems := Desired(opts, largeHost(), nodes, actual)
			got, _ := x.update(opts, largeHost(), nodes, actual)
			if got == nil {
				t.Fatal("a full computation is needed")
			}
			if diff := stateDiff(want, got.desired); diff != "" || !slices.Equal(problems, got.problems) {
				t.Errorf("%s; problems are\n%v\nwant\n%v", diff, got.problems, problems)
			}
			if len(got.unsettled) > 8 {
				t.Errorf("unsettled are %v", got.unsettled)
			}
		})
	}
}

// Concerns of Nodes that come and go in known ranges are not computed anew.
func TestConcernsFollowNodes(t *testing.T) {
	var c concerns
	all := manyNodes(300)
	before := c.of(Options{NodeName: "node1"}, all)
	if now := c.of(Options{NodeName: "node1"}, all[:290]); &now[0] != &before[0] {
		t.Error("ten Nodes that left changed the ranges")
	}
	if now := c.of(Options{NodeName: "node1"}, all); &now[0] != &before[0] {
		t.Error("ten Nodes that came changed the ranges")
	}
}

func TestSplice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(what string) []int {
			all := rapid.SliceOfNDistinct(rapid.IntRange(0, 20), 0, 12, rapid.ID).Draw(t, what)
			slices.Sort(all)
			return all
		}
		sorted, gone, put := draw("sorted"), draw("gone"), draw("put")
		before := slices.Clone(sorted)
		kept := slices.DeleteFunc(slices.Clone(sorted), func(x int) bool { return slices.Contains(gone, x) })
		doubled := slices.ContainsFunc(put, func(x int) bool { return slices.Contains(kept, x) })
		want := slices.Compact(slices.Sorted(slices.Values(slices.Concat(kept, put))))
		got, ok := Splice(sorted, gone, put, cmp.Compare[int])
		if ok == doubled || !slices.Equal(got, want) || !slices.Equal(sorted, before) {
			t.Fatalf("got %v, %t, want %v, %t; the list became %v", got, ok, want, !doubled, sorted)
		}
	})
}

// steps computes one list of Nodes after another, as TestIncremental does, each of them twice.
func steps(t *testing.T, opts Options, host Host, lists ...[]*Node) {
	t.Helper()
	var x Incremental
	actual := withKernel(State{})
	for i, nodes := range lists {
		for range 2 {
			want, problems := Desired(opts, host, nodes, actual)
			got, others := x.Desired(opts, host, nodes, actual)
			if diff := stateDiff(want, got); diff != "" || !slices.Equal(problems, others) {
				t.Errorf("list %d: %s; problems are\n%v\nwant\n%v", i, diff, others, problems)
			}
			actual = withKernel(got)
		}
	}
}

// The limits of the neighbor table count all peers.
func TestIncrementalCountsAllPeers(t *testing.T) {
	all := manyNodes(600)
	opts := Options{NodeName: "node1", Masquerade: true, Bridge: Bridge, ClusterCIDRs: prefixes("10.128.0.0/9")}
	few := defaultNeighbors - podsPerNode + 1 // with our own Node
	steps(t, opts, largeHost(), all[:few-2], all[:few], all[:few+1], all[:few], all[:599], all)
}

// After more changes than an update takes, all peers are known again.
func TestIncrementalAfterManyChanges(t *testing.T) {
	all := manyNodes(200)
	opts := Options{NodeName: "node1", Masquerade: true, Bridge: Bridge}
	rival := &Node{Name: "rival", Created: time.Unix(1, 0), PodCIDRs: all[150].PodCIDRs, Addrs: all[160].Addrs}
	withRival := append(slices.Clone(all), rival)
	steps(t, opts, largeHost(), all[:10], all[:11], all, withRival, all, all[:10], all[:11], withRival[10:])
}

// A Node whose pod subnet has a gateway in it changes how others are reached, and none of its changes touches them.
func TestIncrementalGatewayInAPodSubnet(t *testing.T) {
	host := parseHost(t, `
links:
- {name: eth0, mtu: 1500, addrs: [192.168.1.11/24]}
routes:
- {dst: 192.168.1.0/24, dev: eth0, protocol: 2}
- {dst: 10.50.0.0/24, via: 10.50.0.1, dev: eth0}
- {dst: 10.50.0.1/32, dev: eth0}
- {dst: 10.0.0.0/9, via: 10.1.1.1, dev: eth0}
`)
	nodes := parseNodes(t, `node1 3h 10.244.1.0/24 192.168.1.11
node3 3h 10.244.3.0/24 10.5.0.13
node4 3h 10.244.4.0/24 10.50.0.14
node2 3h 10.1.1.0/24 192.168.1.12
`)
	opts := Options{NodeName: "node1", Bridge: Bridge, OffLink: OffLinkGateway}
	steps(t, opts, host, nodes[:3], nodes, nodes[:3])
	state, _ := Desired(opts, host, nodes, withKernel(State{}))
	if r := RouteTo(state.Routes, nodes[1].PodCIDRs[0], PeerMetric(nodes[1].PodCIDRs[0])); r != nil {
		t.Errorf("a pod's address is the gateway of %q", r)
	}
}

// A younger Node whose pod subnet has a gateway in it removes no route by that gateway, and a Node that
// comes after it gets none until it leaves.
func TestGatewayInAYoungerPodSubnet(t *testing.T) {
	host := parseHost(t, `
links:
- {name: eth0, mtu: 1500, addrs: [192.168.1.11/24]}
routes:
- {dst: 192.168.1.0/24, dev: eth0, protocol: 2}
- {dst: 10.7.0.0/16, via: 10.7.2.1, dev: eth0}
`)
	nodes := parseNodes(t, `node1 3h 10.244.1.0/24 192.168.1.11
node3 2h 10.244.3.0/24 10.7.9.9
node2 1h 10.7.2.0/24 192.168.1.12
node4 1m 10.244.4.0/24 10.7.9.10
`)
	var x Incremental
	state := State{}
	for i, pass := range []struct {
		nodes     []*Node
		restarted bool
		want      string
	}{
		{nodes[:2], false, "node3"},
		{nodes[:3], false, "node3"},
		{nodes[:3], true, "node3"},
		{nodes, false, "node3"},
		{nodes, false, "node3"},
		{slices.Concat(nodes[:2], nodes[3:]), false, "node3 node4"},
	} {
		actual := withKernel(state)
		if pass.restarted {
			actual.granted = nil
		}
		state, _ = x.Desired(Options{NodeName: "node1", Bridge: Bridge, OffLink: OffLinkGateway}, host, pass.nodes, actual)
		var behind []string
		for _, r := range state.Routes {
			if r.Via == netip.MustParseAddr("10.7.2.1") {
				behind = append(behind, state.Reach(r.Dst).Node)
			}
		}
		if got := strings.Join(behind, " "); got != pass.want {
			t.Errorf("pass %d: the gateway leads to %q, want %q", i, got, pass.want)
		}
	}
}

// If the InternalIP is on lo, the routes to all peers decide about the tunnel's MTU.
func TestIncrementalTunnelMTU(t *testing.T) {
	opts, _, _ := tunneling(t)
	nodes := parseNodes(t, `node1 3h 10.244.1.0/24 192.168.1.11
node2 3h 10.244.2.0/24 192.168.1.12
node3 3h 10.244.3.0/24 192.168.1.13
node4 3h 10.244.4.0/24 192.168.1.14
`)
	steps(t, opts, parseHost(t, loHost), nodes[:3], nodes, nodes[:3], append(slices.Clone(nodes[:1]), nodes[2:]...))
}

// While the lengths of pod subnets are unknown, they are those of most Nodes, whichever changed.
func TestIncrementalGuessesLengths(t *testing.T) {
	node := func(name, v6, addr string) *Node {
		return NodeFrom(kubeNode(name, 0, []string{v6}, []string{addr}))
	}
	own := NodeFrom(kubeNode("node1", 0, []string{"10.244.1.0/24"}, []string{"192.168.1.11"}))
	a, b, c := node("a", "fd00:10:244:1::/64", "fd00:192:168:1::12"), node("b", "fd00:10:244:2::/80", "fd00:192:168:1::13"), node("c", "fd00:10:244:3::/80", "fd00:192:168:1::14")
	steps(t, Options{NodeName: "node1", Bridge: Bridge}, testHost(t), []*Node{own, a}, []*Node{own, a, b, c}, []*Node{own, a, b}, []*Node{own, a})
}

// Two Nodes with one MAC address of their tunnels have nothing else in common.
func TestIncrementalMACs(t *testing.T) {
	opts, host, nodes := tunneling(t)
	nodes[1].Addrs[1] = netip.MustParseAddr("fd00:192:168:2::12")
	nodes[1].PodCIDRs[1], nodes[2].PodCIDRs[1] = netip.MustParsePrefix("fd00:0:99:e6f9::/64"), netip.MustParsePrefix("fd00:0:aa:7176::/64")
	steps(t, opts, host, nodes[:2], nodes, []*Node{nodes[0], nodes[2]}, nodes, nodes[:2])
}

// stateDiff returns the first difference of two States, or "".
func stateDiff(want, got State) string {
	a, b := reflect.ValueOf(want), reflect.ValueOf(got)
	for i := range a.NumField() {
		name, w, g := a.Type().Field(i).Name, fmt.Sprintf("%+v", flat(a.Field(i))), fmt.Sprintf("%+v", flat(b.Field(i)))
		if name == "granted" {
			w, g = grants(want), grants(got)
		}
		if w != g {
			return fmt.Sprintf("%s is\n%s\nwant\n%s", name, g, w)
		}
	}
	return ""
}

// flat returns what a pointer leads to.
func flat(v reflect.Value) reflect.Value {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		return v.Elem()
	}
	return v
}

func grants(s State) string {
	var all strings.Builder
	for _, c := range s.granted {
		reach, by := s.Reach(c.subnet), Route{}
		if reach.By != nil {
			by, reach.By = *reach.By, nil
		}
		fmt.Fprintf(&all, "%v %s %v %v %v %s %v %v\n", c.subnet, c.node.Name, reach, by, c.via, c.dev, c.kept, c.hadRoute)
	}
	return all.String()
}

// BenchmarkIncremental has one Node of many leave and come back.
func BenchmarkIncremental(b *testing.B) {
	for _, n := range []int{500, 5000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			host := largeHost()
			opts := Options{NodeName: fmt.Sprintf("node%d", n/2), Masquerade: true, Bridge: Bridge, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}}
			all := scattered(manyNodes(n))
			var x Incremental
			actual := withKernel(State{})
			compute := func(nodes []*Node) {
				desired, _ := x.Desired(opts, host, nodes, actual)
				desired.Sysctls = actual.Sysctls
				actual = desired
			}
			compute(all)
			compute(all)
			b.ReportAllocs()
			for b.Loop() {
				compute(all[:n-1])
				compute(all)
			}
			if x.index == nil {
				b.Error("nothing was incremental")
			}
		})
	}
}

// BenchmarkRepair has one route of many deleted by another program.
func BenchmarkRepair(b *testing.B) {
	const n = 5000
	host := largeHost()
	opts := Options{NodeName: fmt.Sprintf("node%d", n/2), Masquerade: true, Bridge: Bridge, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}}
	all := scattered(manyNodes(n))
	var x Incremental
	desired, _ := x.Desired(opts, host, all, withKernel(State{}))
	whole := withKernel(desired).After(desired)
	desired, _ = x.Desired(opts, host, all, whole)
	lacking := whole
	lacking.Routes = slices.Delete(slices.Clone(whole.Routes), n/2, n/2+1)
	b.ReportAllocs()
	for b.Loop() {
		desired, _ = x.Desired(opts, host, all, lacking.After(desired))
		desired, _ = x.Desired(opts, host, all, whole.After(desired))
	}
	if x.index == nil {
		b.Error("nothing was incremental")
	}
}

// divert has another program lead a route elsewhere.
func (s *State) divert(i int, via netip.Addr) {
	other := *s.Routes[i]
	s.Routes, other.Via = slices.Clone(s.Routes), via
	s.Routes[i] = &other
}

// After many changes one more computation prepares the next one for a change.
func TestReady(t *testing.T) {
	host, all := largeHost(), manyNodes(3*maxChanged)
	opts := Options{NodeName: "node1", Bridge: Bridge, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}}
	var x Incremental
	if x.Ready() {
		t.Error("ready before the first computation")
	}
	desired, _ := x.Desired(opts, host, all, withKernel(State{}))
	if x.Ready() {
		t.Error("ready while the kernel has no route")
	}
	desired, _ = x.Desired(opts, host, all, withKernel(desired).After(desired))
	if !x.Ready() || x.index == nil {
		t.Error("not ready, although the kernel has all routes")
	}
	index := x.index
	if x.Desired(opts, host, all[:len(all)-1], withKernel(desired).After(desired)); x.index != index {
		t.Error("the removal of a Node was computed in full")
	}
}
