package controllers

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// BenchmarkMetrics is what metrics add to a pass among 5,000 peers, and what a scrape
// after it takes to count them.
func BenchmarkMetrics(b *testing.B) {
	result := &status.Result{Node: "node0"}
	for i := range 5000 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		via := netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})
		result.Nodes = append(result.Nodes, &topology.Node{Name: fmt.Sprintf("node%d", i+1), PodCIDRs: []netip.Prefix{subnet}, Addrs: []netip.Addr{via}})
		result.Desired.Routes = append(result.Desired.Routes, &topology.Route{Dst: subnet, Via: via, Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(subnet)})
	}
	latest := &status.Latest{}
	m := NewMetrics(prometheus.NewRegistry(), Build{}, latest, (&memoryNodes{}).Health)
	l := ledger{wanted: &result.Desired}
	one := plan.Of(plan.Add, plan.Route{Route: *result.Desired.Routes[0]})
	b.Run("pass", func(b *testing.B) {
		for range b.N {
			m.found(len(result.Desired.Routes), result.Desired)
			m.applied(one, l.Record(entry{saw: true, wanted: result.Desired, done: one, complete: true}))
			m.reported(result, false)
		}
	})
	b.Run("scrape", func(b *testing.B) {
		for range b.N {
			if n := result.CountPeers()[status.OK]; n != 5000 {
				b.Fatalf("%d peers are well, want 5000", n)
			}
		}
	})
}
