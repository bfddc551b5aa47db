package controllers

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/test/apiserver"
)

func TestMetrics(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3), newNode("bad", "127.0.0.0/24", "192.168.1.66"))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.host.disturb(func() { a.host.dropRoute(route("10.244.3.0/24", "192.168.1.13")) })
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.host.disturb(func() {}) // a pass that finds all as it should be
	a.settle()
	for name, want := range map[string]float64{
		"plainroute_ready": 1, "plainroute_nodes": 4, "plainroute_routes_desired": 4, "plainroute_routes_installed": 4,
		"plainroute_build_info": 1, "plainroute_problems": 1,
	} {
		if got := a.metric(name, nil); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	a.eventually(func() error { return a.metricIs(float64(a.passes()), "plainroute_pass_duration_seconds", nil)() })
	for kind, want := range map[string]float64{"sysctl": 6, "device": 2, "table": 1, "cni": 1, "address": 2, "route_add": 4, "route_replace": 0, "route_delete": 0} {
		if got := a.metric("plainroute_changes_total", map[string]string{"kind": kind, "reason": "start"}); got != want {
			t.Errorf("changes of kind %s at the start are %v, want %v", kind, got, want)
		}
	}
	repairs := map[string]string{"kind": "route_add", "reason": "repair"}
	if got, all := a.metric("plainroute_changes_total", repairs), a.metric("plainroute_changes_total", nil); got != 1 || all != 17 {
		t.Errorf("%v of %v changes are repairs of routes, want 1 of 17", got, all)
	}
	for state, want := range map[string]float64{"ok": 2, "refused": 1, "missing": 0, "conflict": 0, "off_link": 0, "failed": 0} {
		if got := a.metric("plainroute_peers", map[string]string{"state": state}); got != want {
			t.Errorf("%v peers are %s, want %v", got, state, want)
		}
	}
	if a.metric("plainroute_last_success_timestamp_seconds", nil) == 0 || a.metric("plainroute_node_event_to_kernel_seconds", nil) == 0 {
		t.Error("no success or no latency was measured")
	}
	if _, body := a.get("/metrics"); !strings.Contains(body, `plainroute_problems{own="false",reason="PodCIDRRefused"} 1`) {
		t.Errorf("/metrics lacks the problem:\n%s", body)
	}
}

// No label has a value that a Node chooses, because Nodes could fill memory with it.
func TestMetricsAreWellFormed(t *testing.T) {
	a := newSingle(t, agentOptions{})
	a.list(node1(), newNode("evil", "127.0.0.0/24", "192.168.1.66"))
	a.pass()
	if err := a.hasProblem("evil", problem.PodCIDRRefused); err != nil {
		t.Error(err)
	}
	families, err := a.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains([]string{"reason", "own", "kind", "state", "version", "revision", "goversion"}, l.GetName()) || strings.Contains(l.GetValue(), "evil") {
					t.Errorf("%s has label %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	for _, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", f.GetName())
		}
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil && (h.GetBucket()[0].GetUpperBound() != 0.0005 || h.GetBucket()[15].GetUpperBound() != 16.384) {
				t.Errorf("%s has the buckets %v", f.GetName(), h.GetBucket())
			}
		}
	}
	complaints, err := testutil.GatherAndLint(a.registry)
	if err != nil || len(complaints) > 0 {
		t.Errorf("complaints are %v, %v", complaints, err)
	}
}

// Each change is counted for why it was made.
func TestReasonsOfChanges(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	changes := func(kind, reason string) func(float64) func() error {
		return func(want float64) func() error {
			return a.metricIs(want, "plainroute_changes_total", map[string]string{"kind": kind, "reason": reason})
		}
	}
	api.Add(peer(4))
	a.eventually(changes("route_add", "node")(1))
	api.Remove("node4")
	a.eventually(changes("route_delete", "node")(1))
	a.eventually(changes("table", "node")(2))
	a.settle()
	a.host.disturb(a.host.renameUplink)
	a.eventually(changes("route_replace", "host")(2))
	moved := route("10.244.3.0/24", "192.168.1.13")
	moved.Dev = "eth9"
	a.host.disturb(func() { a.host.dropRoute(moved) })
	a.eventually(changes("route_add", "repair")(1))
	a.settle()
	for _, name := range []string{"plainroute_drift", "plainroute_pass_failures_total"} {
		if got := a.metric(name, nil); got != 0 {
			t.Errorf("%s is %v where nothing failed", name, got)
		}
	}
}

// renameUplink makes eth0 eth9, as if the peers were behind another link now.
func (h *memoryHost) renameUplink() {
	h.facts.Links[1].Name = "eth9"
	for i := range h.facts.Routes {
		h.facts.Routes[i].Dev = "eth9"
	}
}

// A route that the kernel refuses counts as drift and as a missing peer, and not as a repair once
// it is accepted.
func TestMetricsOfRefusedRoutes(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{host: func(h *memoryHost) { h.refuse("10.244.2.0/24", syscall.EINVAL) }})
	a.eventually(a.ready)
	a.eventually(a.metricIs(1, "plainroute_drift", map[string]string{"kind": "route"}))
	a.eventually(a.metricIs(1, "plainroute_drift", nil))
	a.eventually(a.metricIs(1, "plainroute_peers", map[string]string{"state": "failed"}))
	a.eventually(a.metricIs(0, "plainroute_pass_failures_total", nil))
	a.host.allow("10.244.2.0/24")
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.eventually(a.metricIs(0, "plainroute_drift", nil))
	a.eventually(a.metricIs(2, "plainroute_peers", map[string]string{"state": "ok"}))
	a.eventually(a.metricIs(4, "plainroute_changes_total", map[string]string{"kind": "route_add", "reason": "start"}))
	a.eventually(a.metricIs(4, "plainroute_routes_installed", nil))
	if got := a.metric("plainroute_repairs_total", nil); got != 0 {
		t.Errorf("there were %v repairs, and nobody took anything away", got)
	}
}

// A pass that fails as a whole counts as failed, until one succeeds.
func TestMetricsOfFailedPasses(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	begin := time.Now().Unix()
	a := startAgent(t, agentOptions{host: func(h *memoryHost) { h.refusedApply = syscall.EPERM }})
	a.eventually(a.notReady("KernelFailed"))
	a.settleFailing()
	if a.metric("plainroute_pass_failures_total", nil) == 0 || a.metric("plainroute_last_success_timestamp_seconds", nil) != 0 {
		t.Error("passes failed, and no failure was counted, or a success")
	}
	if got := a.metric("plainroute_drift", nil); got == 0 {
		t.Error("nothing could be made, and there is no drift")
	}
	a.host.disturb(func() { a.host.refusedApply = nil })
	a.eventually(a.ready)
	a.eventually(a.metricIs(0, "plainroute_drift", nil))
	a.eventually(a.metricIs(3, "plainroute_changes_total", map[string]string{"kind": "route_add"}))
	a.eventually(a.metricIs(0, "plainroute_changes_total", map[string]string{"reason": "repair"}))
	if last := int64(a.metric("plainroute_last_success_timestamp_seconds", nil)); last < begin || last > time.Now().Unix() {
		t.Errorf("the last success was at %d, after a begin at %d", last, begin)
	}
}

// The metrics report an open watch and the last contact with the server, and neither without a
// server.
func TestMetricsOfTheWatch(t *testing.T) {
	begin := time.Now().Unix()
	a := startAgent(t, agentOptions{config: apiserver.NewFake(t, node1()).Config})
	a.eventually(a.ready)
	a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
	if heard := int64(a.metric("plainroute_api_heard_timestamp_seconds", nil)); heard < begin || heard > time.Now().Unix() {
		t.Errorf("the API server was heard at %d, after a begin at %d", heard, begin)
	}
	nobody := startAgent(t, agentOptions{config: &rest.Config{Host: "https://127.0.0.1:1"}})
	nobody.eventually(nobody.notReady("APIUnavailable"))
	for _, name := range []string{"plainroute_watch_established", "plainroute_api_heard_timestamp_seconds"} {
		if got := nobody.metric(name, nil); got != 0 {
			t.Errorf("without an API server %s is %v", name, got)
		}
	}
}

// The build's version and revision are labels, "unknown" if they are empty.
func TestBuildInfo(t *testing.T) {
	for build, want := range map[Build]string{
		{}: runtime.Version() + " unknown unknown ", {"0.1.0", "abc"}: runtime.Version() + " abc 0.1.0 ",
	} {
		registry := prometheus.NewRegistry()
		NewMetrics(registry, build, &status.Latest{}, (&memoryNodes{}).Health)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if m := f.GetMetric()[0]; f.GetName() == "plainroute_build_info" && (labelValues(m) != want || m.GetGauge().GetValue() != 1) {
				t.Errorf("of %v the labels are %q, want %q", build, labelValues(m), want)
			}
		}
	}
}

// Each pass is timed, and the last success is of one that had a list of Nodes and failed in nothing but single routes.
func TestMetricsOfPasses(t *testing.T) {
	s := newSingle(t, agentOptions{})
	const success = "plainroute_last_success_timestamp_seconds"
	s.pass()
	if got := s.metric(success, nil); got != 0 {
		t.Errorf("without a list the last success was at %v", got)
	}
	s.host.refusedFacts = errors.New("no such device")
	s.list(own(2)...)
	s.pass()
	if got := s.metric(success, nil); got != 0 {
		t.Errorf("without a look at the host the last success was at %v", got)
	}
	s.host.refusedFacts = nil
	s.host.refuse("10.244.2.0/24", syscall.EINVAL)
	begin := time.Now()
	s.pass()
	end := time.Now()
	if got := s.metric(success, nil); got < float64(begin.UnixMilli())/1000 || got > float64(end.UnixMilli())/1000 {
		t.Errorf("the last success was at %v, want one from %s to %s", got, begin, end)
	}
	if got := s.metric("plainroute_pass_duration_seconds", nil); got != 3 {
		t.Errorf("%v passes were timed, want 3", got)
	}
	report := s.report()
	if took := report.Pass.Duration; report.Pass.Number != 3 || report.Pass.Time.Before(begin.Truncate(0)) || took <= 0 || took > end.Sub(begin) || report.Pass.Changes != 9 {
		t.Errorf("the pass is %+v", report.Pass)
	}
	if report.Version != "test" || report.Node != "node1" {
		t.Errorf("the report is of %s by %s", report.Node, report.Version)
	}
}

// The collector of peers describes its metric, so that a second one can't be registered.
func TestPeersAreCollectedOnce(t *testing.T) {
	s := newSingle(t, agentOptions{})
	if err := s.registry.Register(&peerCollector{latest: s.latest}); !errors.As(err, &prometheus.AlreadyRegisteredError{}) {
		t.Errorf("got %v", err)
	}
}
