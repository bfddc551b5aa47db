package controllers

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Build is what this program was made from.
type Build struct{ Version, Revision string }

// Metrics are what Prometheus sees; docs/metrics.md says what each means. No label
// takes a value that a Node chooses, and each value that a label can take is there
// from the start, so that a rate or an alert has a 0 to begin with.
type Metrics struct {
	ready     prometheus.Gauge
	nodes     prometheus.Gauge
	desired   prometheus.Gauge
	installed prometheus.Gauge
	success   prometheus.Gauge
	problems  map[complaint]prometheus.Gauge
	drift     map[string]prometheus.Gauge
	changes   *prometheus.CounterVec
	repairs   *prometheus.CounterVec
	failures  prometheus.Counter
	passes    prometheus.Histogram
	latency   prometheus.Histogram
}

// A complaint is what the gauge of Problems tells of one.
type complaint struct {
	reason topology.Reason
	own    bool
}

// The causes of a change: the first pass that was able to make it, news of Nodes, news
// of this host, or that somebody had undone it.
const (
	causeStart  = "start"
	causeNode   = "node"
	causeHost   = "host"
	causeRepair = "repair"
)

// seconds are the upper bounds of histograms: 0.5 ms to 16 s.
func seconds() []float64 { return prometheus.ExponentialBuckets(0.0005, 2, 16) }

// NewMetrics makes the metrics and registers them. What the API server says, and how
// peers are, is asked for when Prometheus asks.
func NewMetrics(registry prometheus.Registerer, build Build, board *status.Board, nodes *NodeSource) *Metrics {
	factory := maker{registry}
	m := &Metrics{
		ready:     factory.gauge("ready", "1 if this node's pods are served as they should be."),
		nodes:     factory.gauge("nodes", "Nodes in the last view, our own too."),
		desired:   factory.gauge("routes_desired", "Routes that should be in the kernel."),
		installed: factory.gauge("routes_installed", "Routes of ours in the kernel after the last pass."),
		success:   factory.gauge("last_success_timestamp_seconds", "When the last pass ended that failed in nothing but routes to single peers."),
		failures:  factory.counter("pass_failures_total", "Passes that failed in more than routes to single peers."),
		changes:   factory.counters("changes_total", "Changes made to the host, by what was changed and why.", "kind", "reason"),
		repairs:   factory.counters("repairs_total", "Things put back that somebody had taken away or changed.", "kind"),
		passes:    factory.histogram("pass_duration_seconds", "Time that a pass took."),
		latency:   factory.histogram("node_event_to_kernel_seconds", "Time from a Node's change on the wire to the kernel."),
	}
	for kind := range tallied(plan.Tally{}) {
		for _, cause := range []string{causeStart, causeNode, causeHost, causeRepair} {
			m.changes.WithLabelValues(kind, cause)
		}
	}
	for _, kind := range kindLabels {
		m.repairs.WithLabelValues(kind)
	}
	m.drift = map[string]prometheus.Gauge{}
	drift := factory.gauges("drift", "Things that are not as they should be after the last pass.", "kind")
	for kind := range differing(plan.Tally{}) {
		m.drift[kind] = drift.WithLabelValues(kind)
	}
	m.problems = factory.problems()
	info := factory.gauges("build_info", "1, with what this was built from as labels.", "version", "revision", "goversion")
	info.WithLabelValues(orUnknown(build.Version), orUnknown(build.Revision), runtime.Version()).Set(1)
	registry.MustRegister(&peerCollector{board: board})
	factory.live(nodes)
	return m
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// found notes what a pass found in the kernel and wants there.
func (m *Metrics) found(routes int, desired topology.State) {
	m.installed.Set(float64(routes))
	m.desired.Set(float64(len(desired.Routes)))
}

// applied counts changes that were made for one reason.
func (m *Metrics) applied(t plan.Tally, cause string) {
	for kind, n := range tallied(t) {
		m.changes.WithLabelValues(kind, cause).Add(float64(n))
	}
	m.installed.Add(float64(t.Added - t.Deleted))
}

// tallied names what changes are counted as.
func tallied(t plan.Tally) map[string]int {
	return map[string]int{
		"sysctl": t.Sysctls, "device": t.Devices, "address": t.Addresses, "table": t.Tables, "cni": t.Configs,
		"route_add": t.Added, "route_replace": t.Replaced, "route_delete": t.Deleted,
	}
}

// differing names what drift is counted as: a route is a route.
func differing(t plan.Tally) map[string]int {
	return map[string]int{
		"sysctl": t.Sysctls, "device": t.Devices, "address": t.Addresses, "table": t.Tables, "cni": t.Configs, "route": t.Routes(),
	}
}

// repaired counts what was put back, by kind.
func (m *Metrics) repaired(keys []plan.Key) {
	counts := map[plan.Kind]int{}
	for _, k := range keys {
		counts[k.Kind]++
	}
	for kind, n := range counts {
		m.repairs.WithLabelValues(kindLabels[kind]).Add(float64(n))
	}
}

// kindLabels are kinds as Prometheus would have them. The bridge is a device like its ports.
var kindLabels = map[plan.Kind]string{
	plan.KindSysctl: "sysctl", plan.KindBridge: "device", plan.KindDevice: "device", plan.KindAddress: "address",
	plan.KindRoute: "route", plan.KindTable: "table", plan.KindCNI: "cni",
}

func (m *Metrics) observeLatency(since time.Time) {
	if !since.IsZero() {
		m.latency.Observe(time.Since(since).Seconds())
	}
}

// reported tells what a pass came to.
func (m *Metrics) reported(r *status.Result, failed bool) {
	m.nodes.Set(float64(len(r.Nodes)))
	m.ready.Set(0)
	if r.Ready {
		m.ready.Set(1)
	}
	if failed {
		m.failures.Inc()
	} else if r.API.Synced {
		m.success.Set(float64(r.Pass.Time.Add(r.Pass.Duration).UnixMilli()) / 1000)
	}
	for kind, n := range differing(r.Undone.Tally()) {
		m.drift[kind].Set(float64(n))
	}
	counts := map[complaint]int{}
	for _, p := range r.Problems {
		counts[complaint{p.Reason, p.Own}]++
	}
	for c, gauge := range m.problems {
		gauge.Set(float64(counts[c]))
	}
	m.passes.Observe(r.Pass.Duration.Seconds())
}
