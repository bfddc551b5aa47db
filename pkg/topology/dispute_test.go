package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/problem"
)

// crowd draws Nodes of which many claim overlapping subnets, each with an InternalIP of its own.
func crowd(t *rapid.T) []*Node {
	nodes := make([]*Node, rapid.IntRange(1, 24).Draw(t, "nodes"))
	within := rapid.SampledFrom([]string{"10.244.16.0/20", "10.244.16.0/24", "10.244.0.0/16"}).Draw(t, "within")
	for i := range nodes {
		whole := netip.MustParsePrefix(within)
		whole = netip.PrefixFrom(whole.Addr(), max(whole.Bits(), 20))
		nodes[i] = NodeFrom(kubeNode(fmt.Sprintf("n%d", i), rapid.IntRange(0, 3).Draw(t, "age"),
			[]string{subnetIn(t, whole.String(), 30)}, []string{fmt.Sprintf("192.168.1.%d", 20+i)}))
	}
	return nodes
}

// greedy is the expected result of decide, in as many steps as it takes: of claims in the order of
// precedence, those that overlap none before them.
func greedy(nodes []*Node, had func(*Node) bool) []netip.Prefix {
	nodes = slices.Clone(nodes)
	first := func(n *Node) int {
		if had(n) {
			return 0
		}
		return 1
	}
	slices.SortFunc(nodes, func(a, b *Node) int { return cmp.Or(cmp.Compare(first(a), first(b)), a.compareAge(b)) })
	var granted []netip.Prefix
	for _, n := range nodes {
		if p := n.PodCIDRs[0]; !slices.ContainsFunc(granted, p.Overlaps) {
			granted = append(granted, p)
		}
	}
	slices.SortFunc(granted, ComparePrefix)
	return granted
}

// Chains of overlapping claims are decided one after another: an incumbent keeps its subnet, then
// the older comes first, and a refused claim takes nothing from the rest. That holds for a running
// agent and a restarted one, and in any order of Nodes. The reason of each refusal names the owner.
func TestOverlapsAreDecidedInTheOrderOfPrecedence(t *testing.T) {
	host := testHost(t)
	rapid.Check(t, func(t *rapid.T) {
		opts := Options{NodeName: "none", Bridge: Bridge, ClusterCIDRs: prefixes("10.244.0.0/16")}
		nodes := crowd(t)
		settled := rapid.IntRange(0, len(nodes)).Draw(t, "Nodes of before")
		before, _ := Desired(opts, host, nodes[:settled], withKernel(State{}))
		if rapid.Bool().Draw(t, "agent started anew") {
			before.granted = nil
		}
		had := func(n *Node) bool {
			return slices.ContainsFunc(before.Routes, func(r *Route) bool { return r.Dst == n.PodCIDRs[0] && r.Via == n.Addrs[0] })
		}
		after, problems := Desired(opts, host, rapid.Permutation(nodes).Draw(t, "order"), withKernel(before))
		got := make([]netip.Prefix, 0, len(after.Routes))
		for _, r := range after.Routes {
			got = append(got, r.Dst)
		}
		if want := greedy(nodes, had); !slices.Equal(got, want) {
			t.Fatalf("granted %v, want %v", got, want)
		}
		checkLosers(t, nodes, after, problems)
	})
}

// checkLosers fails unless the Problem of every Node without a route names one that overlaps it.
func checkLosers(t *rapid.T, nodes []*Node, after State, problems []problem.Problem) {
	for _, n := range nodes {
		i := slices.IndexFunc(after.Routes, func(r *Route) bool { return r.Via == n.Addrs[0] })
		reported := slices.ContainsFunc(problems, func(p problem.Problem) bool {
			return p.Node == n.Name && p.Reason == problem.PodCIDRDisputed && slices.ContainsFunc(after.Routes, func(r *Route) bool {
				winner := nodes[slices.IndexFunc(nodes, func(o *Node) bool { return o.Addrs[0] == r.Via })]
				return r.Dst.Overlaps(p.Subnet) && strings.HasPrefix(p.Message, belongs(p.Subnet, r.Dst, winner.Name))
			})
		})
		if reported == (i >= 0) {
			t.Fatalf("%s has a route: %t, and is reported of a loss: %t; problems %v", n.Name, i >= 0, reported, problems)
		}
	}
}

// BenchmarkDispute has one Node claim what 5,000 have.
func BenchmarkDispute(b *testing.B) {
	host, nodes := largeHost(), scattered(manyNodes(5000))
	nodes = append(nodes, &Node{Name: "wide", PodCIDRs: prefixes("10.128.0.0/11"), Addrs: []netip.Addr{netip.MustParseAddr("172.20.255.1")}})
	opts := Options{Router: true, Bridge: Bridge, ClusterCIDRs: prefixes("10.0.0.0/8"), MaskSizes4: Lengths{11, 24}}
	actual, _ := Desired(opts, host, nodes[:5000], withKernel(State{}))
	actual = withKernel(actual)
	b.ReportAllocs()
	for b.Loop() {
		Desired(opts, host, nodes, actual)
	}
}
