package controllers

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/plainroute/plainroute/pkg/topology"
)

// TestAuditOfTheIncrementalState changes a Node behind the back of the incremental computation,
// which takes a changed Node for another element of the list.
func TestAuditOfTheIncrementalState(t *testing.T) {
	s := newSingle(t, agentOptions{})
	s.loop.Resync = 0 // each pass is an audit
	s.list(own(2, 3)...)
	s.pass()
	s.pass()
	counted := func() float64 { return testutil.ToFloat64(s.loop.Metrics.disagreements) }
	if counted() != 0 {
		t.Fatal("an audit of the unchanged state disagrees")
	}
	i := slices.IndexFunc(s.memory.view.Nodes, func(n *topology.Node) bool { return n.Name == "node3" })
	s.memory.view.Nodes[i].Addrs = []netip.Addr{netip.MustParseAddr("192.168.1.99")}
	s.pass()
	routes := s.loop.Latest.Last().Desired.Routes
	moved := slices.ContainsFunc(routes, func(r *topology.Route) bool { return r.Via == netip.MustParseAddr("192.168.1.99") })
	if counted() != 1 || !moved {
		t.Errorf("%v disagreements; desired are %v", counted(), routes)
	}
	if s.pass(); counted() != 1 {
		t.Error("after the audit the state is still wrong")
	}
}
