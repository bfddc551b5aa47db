package controllers

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/plainroute/plainroute/pkg/topology"
)

func TestMetrics(t *testing.T) {
	api := useNodes(t)
	api.create(node1(), peer(2), peer(3), newNode("bad", "127.0.0.0/24", "192.168.1.66"))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.host.disturb(func() { a.host.dropRoute(route("10.244.3.0/24", "192.168.1.13")) })
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.host.disturb(func() {}) // a pass that finds all as it should be
	a.settle()
	for name, want := range map[string]float64{
		"plainroute_ready": 1, "plainroute_nodes": 4, "plainroute_routes_desired": 4, "plainroute_routes_installed": 4,
		"plainroute_build_info": 1, "plainroute_problems": 1,
		"plainroute_pass_duration_seconds": float64(a.passes()),
	} {
		if got := a.metric(name, nil); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for kind, want := range map[string]float64{"sysctl": 2, "table": 1, "route_add": 5, "route_replace": 0, "route_delete": 0} {
		if got := a.metric("plainroute_changes_total", map[string]string{"kind": kind}); got != want {
			t.Errorf("changes of kind %s are %v, want %v", kind, got, want)
		}
	}
	if a.metric("plainroute_last_success_timestamp_seconds", nil) == 0 || a.metric("plainroute_node_event_to_kernel_seconds", nil) == 0 {
		t.Error("no success or no latency was measured")
	}
	if _, body := a.get("/metrics"); !strings.Contains(body, `plainroute_problems{own="false",reason="PodCIDRRefused"} 1`) {
		t.Errorf("/metrics lacks the problem:\n%s", body)
	}
}

// What a Node can choose is no label's value: it would be a way to fill memory.
func TestMetricsAreWellFormed(t *testing.T) {
	api := useNodes(t)
	api.create(node1(), newNode("evil", "127.0.0.0/24", "192.168.1.66"))
	a := startAgent(t, agentOptions{})
	a.eventually(func() error { return a.hasProblem("evil", topology.PodCIDRRefused) })
	families, err := a.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains([]string{"reason", "own", "kind", "version"}, l.GetName()) || strings.Contains(l.GetValue(), "evil") {
					t.Errorf("%s has label %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	complaints, err := testutil.GatherAndLint(a.registry)
	if err != nil || len(complaints) > 0 {
		t.Errorf("complaints are %v, %v", complaints, err)
	}
}
