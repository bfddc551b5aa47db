package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/ratelog"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// BenchmarkReconcile is two whole passes among 5,000 Nodes on a host in memory: one Node leaves and comes back. Its counts
// are compared by `make bench-check`.
func BenchmarkReconcile(b *testing.B) {
	all := lanNodes(5000)
	r, memory := benchReconciler(b, all[0].Name)
	pass := func(all []*topology.Node) {
		memory.edit(func(v *nodes.View) bool { v.Nodes, v.Synced = all, true; return true })
		r.Reconcile(context.Background())
		if n, problems := len(r.Latest.Last().Desired.Routes), r.Latest.Last().Problems; n != len(all) || len(problems) > 0 {
			b.Fatalf("%d routes among %d Nodes, problems: %v", n, len(all), problems)
		}
	}
	turn := func() {
		pass(all[:len(all)-1])
		pass(all)
	}
	pass(all)
	turn()
	b.ReportAllocs()
	for b.Loop() {
		turn()
	}
}

// benchReconciler returns the loop of a Node on a host in memory, whose LAN is 172.20.0.0/16.
func benchReconciler(b *testing.B, name string) (*NodeReconciler, *memoryNodes) {
	host, err := newMemoryHost()
	if err != nil {
		b.Fatal(err)
	}
	host.facts.Links[1].Addrs = []netip.Prefix{netip.MustParsePrefix("172.20.0.1/16")}
	host.facts.Routes = []topology.Route{{Dst: netip.MustParsePrefix("172.20.0.0/16"), Dev: "eth0"}}
	for i := range 3 {
		host.state.Sysctls[topology.NeighSysctl(4, i+1)] = "100000"
	}
	memory, latest := &memoryNodes{own: name}, &status.Latest{}
	return &NodeReconciler{
		Options: topology.Options{NodeName: name, Masquerade: true, Bridge: "plainroute0", RunDir: "/run/plainroute"},
		Nodes:   memory, Dataplane: host, Watcher: host, Resync: time.Hour, Latest: latest,
		Metrics: NewMetrics(prometheus.NewRegistry(), Build{}, latest, memory.Health),
		flaps:   newFlapGuard(time.Now), retries: newRetries(), unread: &unreadConfig{now: time.Now}, log: ratelog.New(time.Now),
	}, memory
}

// lanNodes are Nodes of that LAN, the first of which is our own.
func lanNodes(n int) []*topology.Node {
	all := make([]*topology.Node, n)
	addr := netip.MustParseAddr("172.20.0.1")
	for i := range all {
		all[i] = &topology.Node{
			Name: fmt.Sprintf("node%d", i+1), UID: fmt.Sprintf("uid%d", i+1), Addrs: []netip.Addr{addr},
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + i>>8), byte(i), 0}), 24)},
		}
		addr = addr.Next()
	}
	return all
}
