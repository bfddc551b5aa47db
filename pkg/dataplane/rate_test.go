package dataplane

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// peerRoutes returns n routes as to peers, by a number of gateways of 172.16.0.0/14.
func peerRoutes(n, gateways int) []topology.Route {
	all := make([]topology.Route, n)
	for i := range all {
		host := 2 + i%gateways
		all[i] = topology.Route{
			Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 14), byte(i >> 6), byte(i << 2)}), 30),
			Via: netip.AddrFrom4([4]byte{172, 16 + byte(host>>16), byte(host >> 8), byte(host)}), Dev: "eth0", Protocol: topology.Protocol,
		}
		all[i].Metric = topology.PeerMetric(all[i].Dst)
	}
	return all
}

// addBatch adds routes by `ip -batch`, and returns how long that takes.
func (m *machine) addBatch(all []topology.Route) time.Duration {
	m.t.Helper()
	var input bytes.Buffer
	for _, r := range all {
		fmt.Fprintf(&input, "route add %s\n", r)
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = &input
	begin := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("ip -batch: %v: %s", err, out)
	}
	return time.Since(begin)
}

// BenchmarkApplyRate adds routes by Apply and by `ip -batch`, by turns. The kernel looks for a next hop
// to share among all by the same device (fib_find_info of net/ipv4/fib_semantics.c), so a route by a
// gateway of its own costs more the more there are.
func BenchmarkApplyRate(b *testing.B) {
	for _, c := range []struct{ routes, gateways int }{{5_000, 5_000}, {5_000, 200}, {100_000, 200}} {
		b.Run(fmt.Sprintf("routes=%d/gateways=%d", c.routes, c.gateways), func(b *testing.B) {
			m := newMachine(&testing.T{})
			m.settle(nodes(1))
			m.addr("eth0", "172.16.0.1/14")
			all := peerRoutes(c.routes, c.gateways)
			add, del := routes(plan.Add, all...), routes(plan.Delete, all...)
			var ours, theirs, used time.Duration
			b.ReportAllocs()
			for b.Loop() {
				begin, before := time.Now(), cpu()
				m.must(m.Apply(context.Background(), add))
				ours, used = ours+time.Since(begin), used+cpu()-before
				b.StopTimer()
				m.must(m.Apply(context.Background(), del))
				theirs += m.addBatch(all)
				m.must(m.Apply(context.Background(), del))
				m.catchUp()
				b.StartTimer()
			}
			n := float64(c.routes * b.N)
			b.ReportMetric(n/ours.Seconds(), "routes/s")
			b.ReportMetric(float64(used.Microseconds())/n, "us-cpu/route")
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "of-ip-batch")
		})
	}
}
