package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(texts))
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func concernNode(name string, subnets []netip.Prefix, addrs ...string) *Node {
	n := &Node{Name: name, PodCIDRs: subnets}
	for _, a := range addrs {
		n.Addrs = append(n.Addrs, netip.MustParseAddr(a))
	}
	return n
}

// Routes concern a cluster in the ranges of its pods and its Nodes, in few blocks, and no kubelet
// can widen them to all addresses.
func TestConcernsOfACluster(t *testing.T) {
	own := concernNode("own", prefixes("10.244.0.0/24", "fd01:0:0:1::/64"), "192.168.1.11", "fd00:192:168:1::11")
	peer := concernNode("peer", prefixes("10.245.7.0/24", "fd01:0:0:2::/64"), "192.168.200.12", "172.16.3.4")
	around := []string{"10.244.0.0/16", "10.245.0.0/16", "172.16.0.0/16", "192.168.0.0/16", "fd00:192:168::/48", "fd01::/48"}
	for name, c := range map[string]struct {
		opts  Options
		nodes []*Node
		want  []string
	}{
		"nobody":          {Options{}, nil, nil},
		"Nodes":           {Options{}, []*Node{own, peer}, around},
		"in any order":    {Options{}, []*Node{peer, own, peer}, around},
		"without subnets": {Options{}, []*Node{concernNode("new", nil, "192.168.1.12")}, []string{"192.168.0.0/16"}},
		"with --cluster-cidr": {
			Options{ClusterCIDRs: prefixes("10.0.0.0/8", "fd01::/40")},
			[]*Node{own, peer},
			[]string{"10.0.0.0/8", "172.16.0.0/16", "192.168.0.0/16", "fd00:192:168::/48", "fd01::/40"},
		},
		"a subnet as wide as the world": {
			Options{}, []*Node{concernNode("liar", prefixes("0.0.0.0/0", "2000::/3"), "192.168.1.66")}, []string{"192.168.0.0/16"},
		},
		"wide subnets that the operator asks for": {
			Options{MaskSizes4: Lengths{12, 24}}, []*Node{concernNode("wide", prefixes("10.16.0.0/12"))}, []string{"10.16.0.0/12"},
		},
		"wide subnets, of which ours is one": {
			Options{NodeName: "wide"},
			[]*Node{concernNode("wide", prefixes("10.16.0.0/12")), concernNode("too", prefixes("10.32.0.0/12"))},
			[]string{"10.16.0.0/12", "10.32.0.0/12"},
		},
	} {
		got := Concerns(c.opts, c.nodes)
		if !slices.Equal(got, prefixes(c.want...)) || got == nil {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

// Nodes that come and go in one network change nothing.
func TestConcernsSeldomChange(t *testing.T) {
	var nodes []*Node
	for i := range 250 {
		nodes = append(nodes, concernNode(fmt.Sprint(i), prefixes(fmt.Sprintf("10.244.%d.0/24", i)), fmt.Sprintf("192.168.1.%d", i+1)))
	}
	want := Concerns(Options{}, nodes[:1])
	if got := Concerns(Options{}, nodes); !slices.Equal(got, want) {
		t.Errorf("one Node: %v, all: %v", want, got)
	}
}

func BenchmarkConcerns(b *testing.B) {
	var nodes []*Node
	for i := range 5000 {
		nodes = append(nodes, concernNode(fmt.Sprint("node", i), prefixes(fmt.Sprintf("10.%d.%d.0/24", 128+i>>8, i&255), fmt.Sprintf("fd01:0:0:%x::/64", i)),
			fmt.Sprintf("192.168.%d.%d", i>>8, i&255), fmt.Sprintf("fd00::%x", i+1)))
	}
	b.ReportAllocs()
	for b.Loop() {
		Concerns(Options{NodeName: "node7"}, nodes)
	}
}
