package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// goodCluster draws a cluster of honest Nodes. If the options allow it, its pod subnets may be of
// mixed lengths, and Nodes not on link.
func goodCluster(t *rapid.T, opts Options) []*Node {
	n := rapid.IntRange(1, 12).Draw(t, "nodes")
	nodes := make([]*Node, n)
	lan := rapid.Just(1)
	if opts.Encapsulates() || opts.OffLink != OffLinkReport {
		lan = rapid.IntRange(1, 2)
	}
	mixed := (len(opts.ClusterCIDRs) > 0 || opts.MaskSizes4 != (Lengths{})) && rapid.Bool().Draw(t, "mixed lengths")
	for i := range nodes {
		subnets := []string{fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:10:244:%d::/64", i+1)}
		if mixed {
			subnets = []string{
				subnetIn(t, fmt.Sprintf("10.244.%d.0/21", 104+8*i), 28), subnetIn(t, fmt.Sprintf("fd00:10:244:%d00::/56", i+1), 72),
			}
		}
		at := 1
		if i > 0 {
			at = lan.Draw(t, "LAN")
		}
		nodes[i] = NodeFrom(kubeNode(fmt.Sprintf("node%d", i+1), rapid.IntRange(0, 50).Draw(t, "age"), subnets,
			[]string{fmt.Sprintf("192.168.%d.%d", at, i+11), fmt.Sprintf("fd00:192:168:%d::%d", at, i+11)}))
	}
	return nodes
}

// subnetIn draws a subnet of a range, the range itself or one of at most so many bits.
func subnetIn(t *rapid.T, text string, narrowest int) string {
	whole := netip.MustParsePrefix(text)
	bits := rapid.IntRange(whole.Bits(), narrowest).Draw(t, "bits")
	addr := whole.Addr().AsSlice()
	for i, b := range rapid.SliceOfN(rapid.Byte(), len(addr), len(addr)).Draw(t, "place") {
		free := min(max((i+1)*8-whole.Bits(), 0), 8) // bits of this byte that the range leaves free
		addr[i] |= b & byte(1<<free-1)
	}
	first, _ := netip.AddrFromSlice(addr)
	return netip.PrefixFrom(first, bits).Masked().String()
}

func kubeNode(name string, age int, cidrs, addrs []string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9-int64(age), 0))}}
	n.Spec.PodCIDRs = cidrs
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// hostileNode draws what a compromised kubelet may write.
func hostileNode(t *rapid.T) *Node {
	cidr := rapid.OneOf(
		rapid.SampledFrom([]string{
			"10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "10.244.200.0/24", "10.244.0.0/16", "10.244.2.0/25", "0.0.0.0/0", "::/0",
			"10.244.2.128/26", "10.244.0.0/20", "10.244.112.0/20", "10.244.128.0/17", "fd00:10:244::/52",
			"192.168.1.0/24", "fd00:10:244:2::/64", "fd00:10:244:3::/65", "fd00:192:168:1::/64", "127.0.0.0/24", "10.244.53.0/24", "172.16.9.0/24",
		}),
		rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf("%d.%d.%d.0/%d", rapid.Byte().Draw(t, "a"), rapid.Byte().Draw(t, "b"), rapid.Byte().Draw(t, "c"), rapid.IntRange(0, 32).Draw(t, "bits"))
		}),
		rapid.String(),
	)
	addr := rapid.OneOf(
		rapid.SampledFrom([]string{
			"192.168.1.11", "192.168.1.12", "192.168.1.13", "192.168.1.77", "192.168.1.255", "192.168.1.1", "10.244.2.5", "10.244.3.1", "8.8.8.8",
			"fd00:192:168:1::12", "fd00:10:244:2::9", "::ffff:192.168.1.12", "fe80::1%eth0", "224.0.0.1", "172.16.9.9",
		}),
		rapid.String(),
	)
	return NodeFrom(kubeNode("hostile", rapid.IntRange(-10, 100).Draw(t, "hostile age"),
		rapid.SliceOfN(cidr, 0, 4).Draw(t, "cidrs"), rapid.SliceOfN(addr, 0, 6).Draw(t, "addrs")))
}

func drawOptions(t *rapid.T) Options {
	o := Options{
		NodeName: "node1", Masquerade: true, Bridge: Bridge, RunDir: "/run/plainroute", VNI: 112, VXLANPort: 4789,
		Encapsulation: rapid.SampledFrom([]Encapsulation{EncapsulateNever, EncapsulateCrossSubnet, EncapsulateAlways}).Draw(t, "encapsulation"),
		OffLink:       OffLinkReport,
	}
	if !o.Encapsulates() {
		o.OffLink = rapid.SampledFrom([]OffLink{OffLinkReport, OffLinkGateway, OffLinkUnderlay}).Draw(t, "off link")
	}
	if rapid.Bool().Draw(t, "cluster-cidr") {
		o.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
	}
	if rapid.IntRange(0, 3).Draw(t, "mask sizes") == 0 {
		o.MaskSizes4, o.MaskSizes6 = Lengths{21, 28}, Lengths{56, 72}
	}
	return o
}

func testHost(t *testing.T) Host { return parseHost(t, defaultHost) }

func withKernel(s State) State {
	s.Sysctls = allSysctls("lo", "eth0", Bridge).Sysctls
	return s
}

// TestNobodysRouteMoves adds a hostile Node to a cluster that works.
func TestNobodysRouteMoves(t *testing.T) {
	host := testHost(t)
	rapid.Check(t, func(t *rapid.T) {
		opts := drawOptions(t)
		nodes := goodCluster(t, opts)
		before, _ := Desired(opts, host, nodes, withKernel(State{}))
		after, problems := Desired(opts, host, append(slices.Clone(nodes), hostileNode(t)), withKernel(before))
		for _, r := range before.Routes {
			if !slices.ContainsFunc(after.Routes, func(o *Route) bool { return SameRoute(o, r) }) {
				t.Fatalf("lost %v; now %v; problems %v", r, after.Routes, problems)
			}
		}
		if !before.CNI.Equal(after.CNI) {
			t.Fatalf("CNI config became %v", after.CNI)
		}
		for _, p := range problems {
			if p.BlocksReady {
				t.Fatalf("another Node keeps us from being ready: %v", p)
			}
		}
	})
}

// TestRoutesStayInBounds checks every route that hostile lists lead to.
func TestRoutesStayInBounds(t *testing.T) {
	host := testHost(t)
	rapid.Check(t, func(t *rapid.T) {
		opts := drawOptions(t)
		nodes := goodCluster(t, opts)[:1]
		for i := range rapid.IntRange(0, 8).Draw(t, "hostile nodes") {
			n := hostileNode(t)
			n.Name = fmt.Sprintf("hostile%d", i)
			nodes = append(nodes, n)
		}
		state, _ := Desired(opts, host, nodes, withKernel(State{}))
		if !slices.IsSortedFunc(state.Routes, CompareRoutes) {
			t.Fatal("not sorted")
		}
		for i, r := range state.Routes {
			if i > 0 && CompareRoutes(state.Routes[i-1], r) == 0 {
				t.Fatalf("two routes of one key: %v", r)
			}
			checkBounds(t, opts, host, nodes[0], r)
		}
	})
}

func checkBounds(t *rapid.T, opts Options, host Host, own *Node, r *Route) {
	if len(opts.ClusterCIDRs) > 0 && !within(opts.ClusterCIDRs, r.Dst) {
		t.Fatalf("outside --cluster-cidr: %v", r)
	}
	if want := acceptable(opts, own, r.Dst.Addr().Is4()); !want.has(r.Dst.Bits()) {
		t.Fatalf("length is not %s: %v", want, r)
	}
	if r.Type == Unreachable {
		return
	}
	for _, link := range host.Links {
		for _, p := range link.Addrs {
			if p.Overlaps(r.Dst) || p.Addr() == r.Via {
				t.Fatalf("touches %v of this host: %v", p, r)
			}
		}
	}
	for _, p := range append(own.PodCIDRs, netip.MustParsePrefix("10.244.53.53/32"), netip.MustParsePrefix("169.254.0.0/16")) {
		if p.Overlaps(r.Dst) {
			t.Fatalf("covers %v: %v", p, r)
		}
	}
	if !unicast(r.Via) && !isTunnel(r.Dev) {
		t.Fatalf("next hop is no unicast address: %v", r)
	}
}

// acceptable returns the lengths that a drawn cluster may have while our own Node is known.
func acceptable(opts Options, own *Node, is4 bool) Lengths {
	bits := own.podCIDR(is4).Bits()
	switch given := opts.maskSizes(is4); {
	case given != Lengths{}:
		return given
	case len(opts.ClusterCIDRs) == 0:
		return Lengths{bits, bits}
	case is4:
		return Lengths{20, 30}
	}
	return Lengths{52, 126}
}

// TestOrderDoesNotMatter shuffles the Nodes.
func TestOrderDoesNotMatter(t *testing.T) {
	host := testHost(t)
	rapid.Check(t, func(t *rapid.T) {
		opts := drawOptions(t)
		nodes := append(goodCluster(t, opts), hostileNode(t))
		first, problems := Desired(opts, host, nodes, withKernel(State{}))
		second, others := Desired(opts, host, rapid.Permutation(nodes).Draw(t, "order"), withKernel(State{}))
		if !slices.EqualFunc(first.Routes, second.Routes, SameRoute) || !first.CNI.Equal(second.CNI) {
			t.Fatalf("%v\n%v", first.Routes, second.Routes)
		}
		if len(problems) != len(others) {
			t.Fatalf("%v\n%v", problems, others)
		}
	})
}

// TestSteady computes twice: the second time the desired State is the actual one.
func TestSteady(t *testing.T) {
	host := testHost(t)
	rapid.Check(t, func(t *rapid.T) {
		opts := drawOptions(t)
		nodes := append(goodCluster(t, opts), hostileNode(t))
		first, _ := Desired(opts, host, nodes, withKernel(State{}))
		second, _ := Desired(opts, host, nodes, withKernel(first))
		if !slices.EqualFunc(first.Routes, second.Routes, SameRoute) {
			t.Fatalf("%v\n%v", first.Routes, second.Routes)
		}
	})
}

// TestTakenIndex compares the index with a check of each range.
func TestTakenIndex(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.Bool().Draw(t, "v6") {
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: rapid.Byte().Draw(t, "low")}), rapid.IntRange(118, 128).Draw(t, "bits")).Masked()
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, rapid.ByteMax(3).Draw(t, "b"), rapid.Byte().Draw(t, "low")}), rapid.IntRange(0, 32).Draw(t, "bits")).Masked()
	})
	rapid.Check(t, func(t *rapid.T) {
		var ranges []taken
		for _, p := range rapid.SliceOfN(prefix, 0, 20).Draw(t, "ranges") {
			ranges = append(ranges, taken{p, ""})
		}
		p := prefix.Draw(t, "p")
		want := slices.ContainsFunc(ranges, func(r taken) bool { return r.Overlaps(p) })
		idx := newTakenIndex(slices.Clone(ranges))
		if got := idx.overlap(p); (got != nil) != want {
			t.Fatalf("overlap(%v) of %v is %v", p, ranges, got)
		}
	})
}

// TestOutermost checks that the result is disjoint and covers the same addresses.
func TestOutermost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []netip.Prefix
		for range rapid.IntRange(0, 20).Draw(t, "n") {
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "low")}), rapid.IntRange(20, 32).Draw(t, "bits")).Masked())
		}
		outer := Outermost(all)
		for i := 1; i < len(outer); i++ {
			if outer[i-1].Overlaps(outer[i]) {
				t.Fatalf("%v overlaps %v", outer[i-1], outer[i])
			}
		}
		for _, p := range all {
			if !within(outer, p) {
				t.Fatalf("%v is lost from %v", p, outer)
			}
		}
	})
}

// FuzzNodeFrom feeds what a kubelet may write.
func FuzzNodeFrom(f *testing.F) {
	f.Add("10.244.2.0/24", "fd00::/64", "192.168.1.12", "fe80::1%eth0")
	f.Add("10.244.1.64/26", "fd00:10:244::/60", "192.168.1.12", "fd00:192:168:1::12")
	f.Add("10.244.16.0/20", "fd00:10:244:4000::/52", "192.168.1.12", "fd00:192:168:1::12")
	f.Add("0.0.0.0/0", "::ffff:10.0.0.0/120", "::ffff:1.2.3.4", "")
	host := parseHost(&testing.T{}, defaultHost)
	f.Fuzz(func(t *testing.T, cidr1, cidr2, addr1, addr2 string) {
		n := NodeFrom(kubeNode("fuzzed", 1, []string{cidr1, cidr2}, []string{addr1, addr2}))
		own := NodeFrom(kubeNode("node1", 1, []string{"10.244.1.0/24", "fd00:10:244:1::/64"}, []string{"192.168.1.11", "fd00:192:168:1::11"}))
		bounded := Options{NodeName: "node1", Bridge: Bridge, ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48")}
		behind := bounded
		behind.Encapsulation, behind.VNI, behind.VXLANPort = EncapsulateAlways, 112, 4789
		open := Options{NodeName: "node1", Bridge: Bridge, Encapsulation: EncapsulateCrossSubnet, VNI: 112, VXLANPort: 4789}
		for _, opts := range []Options{{NodeName: "node1", Bridge: Bridge}, bounded, behind, open} {
			state, _ := Desired(opts, host, []*Node{own, n}, withKernel(State{}))
			for i, r := range state.Routes {
				if want := acceptable(opts, own, r.Dst.Addr().Is4()); !want.has(r.Dst.Bits()) {
					t.Errorf("length is not %s: %v", want, r)
				}
				if i > 0 && state.Routes[i-1].Dst.Overlaps(r.Dst) {
					t.Errorf("%v overlaps %v", r, state.Routes[i-1])
				}
			}
			siege{opts: opts, host: host, honest: []*Node{own}}.grantsInBounds(t, state)
		}
	})
}

func BenchmarkDesired(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			host := largeHost()
			opts := Options{NodeName: fmt.Sprintf("node%d", n/2), Masquerade: true, Bridge: Bridge, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}}
			nodes := scattered(manyNodes(n))
			actual, _ := Desired(opts, host, nodes, withKernel(State{}))
			actual = withKernel(actual)
			b.ReportAllocs()
			for b.Loop() {
				Desired(opts, host, nodes, actual)
			}
		})
	}
}

// largeHost is on link with manyNodes.
func largeHost() Host {
	host := parseHost(&testing.T{}, defaultHost)
	host.Links[1].Addrs = []netip.Prefix{netip.MustParsePrefix("172.20.0.1/16")}
	host.Routes[0] = Route{Dst: netip.MustParsePrefix("172.20.0.0/16"), Dev: "eth0"}
	return host
}

func manyNodes(n int) []*Node {
	nodes := make([]*Node, n)
	subnet, addr := netip.MustParseAddr("10.128.0.0").As4(), netip.MustParseAddr("172.20.0.1")
	for i := range nodes {
		subnet[1], subnet[2] = byte(128+i>>8), byte(i)
		nodes[i] = &Node{Name: fmt.Sprintf("node%d", i), PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(subnet), 24)}, Addrs: []netip.Addr{addr}}
		addr = addr.Next()
	}
	return nodes
}

// scattered gives each Node the InternalIP of another, as in real clusters: subnets and addresses
// are allocated by different programs.
func scattered(nodes []*Node) []*Node {
	const step = 1009 // a prime, so that all are hit
	for i := range nodes {
		other := nodes[i*step%len(nodes)]
		nodes[i].Addrs, other.Addrs = other.Addrs, nodes[i].Addrs
	}
	return nodes
}
