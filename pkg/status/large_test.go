package status

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

// wholeCluster returns the Result of a pass among n Nodes of one LAN.
func wholeCluster(n int) *Result {
	nodes := make([]*topology.Node, n)
	for i := range nodes {
		nodes[i] = &topology.Node{
			Name:     fmt.Sprintf("node%d", i),
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 + byte(i>>8), byte(i), 0}), 24)},
			Addrs:    []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})},
		}
	}
	own := netip.PrefixFrom(nodes[0].Addrs[0], 16)
	host := topology.Host{
		Links:  []topology.Link{{Name: "eth0", MTU: 1500, Addrs: []netip.Prefix{own}}},
		Routes: []topology.Route{{Dst: own.Masked(), Dev: "eth0", Protocol: 2, Src: own.Addr()}},
	}
	desired, problems := topology.Desired(topology.Options{NodeName: "node0", Bridge: topology.Bridge}, host, nodes, topology.State{})
	return &Result{Node: "node0", Nodes: nodes, Desired: desired, Problems: problems, Seen: true, Known: true}
}

// Each peer has the route of this host to it, whose text they share.
func TestPeersShareTheirText(t *testing.T) {
	r := wholeCluster(100)
	peers := r.peers()
	for _, p := range peers {
		if p.State != OK || p.By != "172.16.0.0/16 dev eth0 proto 2 src 172.16.0.0" {
			t.Errorf("%+v", p)
		}
	}
	if each := testing.AllocsPerRun(10, func() { r.peers() }) / float64(len(peers)); each > 1 {
		t.Errorf("%v allocations for each peer", each)
	}
}

func BenchmarkReport(b *testing.B) {
	r := wholeCluster(5000)
	b.ReportAllocs()
	for b.Loop() {
		r.Report()
	}
}
