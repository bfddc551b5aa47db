package controllers

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// comeBack is how long the agent may take once the API server can be reached: its longest pause
// (TestBackoffIsBounded), and time for a machine under load.
const comeBack = 10 * time.Second

// Without an API server the agent waits as long as it takes, and reports why.
func TestAPIServerComesLate(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	gate, config := apiserver.NewGate(t, api.Reader)
	leftover := route("10.244.9.0/24", "192.168.1.19")
	left := []*topology.Route{&leftover}
	a := startAgent(t, agentOptions{config: config, host: func(h *memoryHost) { h.state.Routes = slices.Clone(left) }})
	a.eventually(a.notReady("APIUnavailable", "waiting for the first list of Nodes", "connection refused"))
	time.Sleep(8 * time.Second)
	a.host.with(func() {
		if !slices.EqualFunc(a.host.state.Routes, left, topology.SameRoute) {
			t.Errorf("routes of a former run were touched: %v", a.host.state.Routes)
		}
	})
	if got := a.log.with("connection refused"); len(got) != 1 {
		t.Errorf("want one line in the log, got %q", got)
	}
	a.eventually(a.metricIs(1, "plainroute_problems", map[string]string{"reason": "APIUnavailable", "own": "true"}))

	gate.Open()
	a.within(comeBack, a.ready)
	a.within(comeBack, a.hasRoutes(peerRoute(2)))
}

// An API server that goes away takes no route with it, and the kernel is cared
// for meanwhile.
func TestAPIServerOutage(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	gate, config := apiserver.NewGate(t, api.Reader)
	gate.Open()
	a := startAgent(t, agentOptions{config: config})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.eventually(a.ready)

	gate.Shut()
	api.Remove("node2")
	api.Add(peer(4))
	n := len(a.log.with())
	time.Sleep(8 * time.Second)
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.host.disturb(func() { a.host.dropRoute(route("10.244.2.0/24", "192.168.1.12")) })
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	if got := a.log.with()[n:]; len(got) > 5 {
		t.Errorf("in an outage the log tells %d times: %q", len(got), got)
	}

	gate.Open()
	a.within(comeBack, a.hasRoutes(peerRoute(3), peerRoute(4)))
}

// An API server that refuses us is waited for too: rights may be granted later.
func TestAPIServerRefusesUs(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	config, err := api.User("stranger")
	if err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, agentOptions{config: config})
	a.eventually(a.notReady("APIUnavailable", "stranger", "nodes", "forbidden"))
	time.Sleep(6 * time.Second)
	a.eventually(a.notReady("APIUnavailable", "stranger", "nodes", "forbidden"))
	if got := a.log.with("forbidden"); len(got) != 1 {
		t.Errorf("want one line in the log, got %q", got)
	}

	if err := api.Grant("stranger"); err != nil {
		t.Fatal(err)
	}
	a.within(comeBack, a.ready)
	a.within(comeBack, a.hasRoutes(peerRoute(2)))
}

// route is one of ours to a peer.
func route(subnet, via string) topology.Route {
	return topology.Route{
		Dst: netip.MustParsePrefix(subnet), Via: netip.MustParseAddr(via), Dev: "eth0",
		Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix(subnet)),
	}
}
