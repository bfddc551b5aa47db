package controllers

import (
	"cmp"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Build describes the sources of this binary.
type Build struct{ Version, Revision string }

// Metrics are the metrics of the loop; docs/metrics.md describes each. No label has a value that a Node
// chooses. Each value that a label can have exists from the start, so that a rate or an alert starts at 0.
type Metrics struct {
	ready, nodes, desired, installed, success prometheus.Gauge

	problems         map[problemLabels]prometheus.Gauge
	drift            map[string]prometheus.Gauge
	changes, repairs *prometheus.CounterVec
	failures         prometheus.Counter
	disagreements    prometheus.Counter
	passes, latency  prometheus.Histogram
}

// problemLabels are the labels of the gauge of Problems.
type problemLabels struct {
	reason problem.Reason
	own    bool
}

// NewMetrics returns metrics that are registered. Those of the connection to the API server and of
// peers are collected when Prometheus scrapes, from health and the latest result.
func NewMetrics(registry prometheus.Registerer, build Build, latest *status.Latest, health func() nodes.Health) *Metrics {
	f := promauto.With(registry)
	m := &Metrics{
		ready:         f.NewGauge(gauge("ready", "1 if this node is ready to serve its pods.")),
		nodes:         f.NewGauge(gauge("nodes", "Nodes in the last view, including our own.")),
		desired:       f.NewGauge(gauge("routes_desired", "Routes that should be in the kernel.")),
		installed:     f.NewGauge(gauge("routes_installed", "Routes of ours in the kernel after the last pass.")),
		success:       f.NewGauge(gauge("last_success_timestamp_seconds", "When the last pass ended that failed at most in routes to single peers.")),
		failures:      f.NewCounter(counter("pass_failures_total", "Passes that failed in more than routes to single peers.")),
		disagreements: f.NewCounter(counter("incremental_disagreements_total", "Audits in which the incremental desired state was not the same as a full computation.")),
		changes:       f.NewCounterVec(counter("changes_total", "Changes made to the host, by kind and reason."), []string{"kind", "reason"}),
		repairs:       f.NewCounterVec(counter("repairs_total", "Objects restored that another program had removed or changed."), []string{"kind"}),
		passes:        f.NewHistogram(histogram("pass_duration_seconds", "Time that a pass took.")),
		latency:       f.NewHistogram(histogram("node_event_to_kernel_seconds", "Time from a Node's change on the wire to the kernel.")),
	}
	m.drift = map[string]prometheus.Gauge{}
	drift := f.NewGaugeVec(gauge("drift", "Objects that are not as they should be after the last pass."), []string{"kind"})
	for _, kind := range plan.Kinds() {
		for _, op := range []plan.Op{plan.Add, plan.Replace, plan.Delete} {
			for _, trigger := range []string{triggerStart, triggerNode, triggerHost, triggerRepair} {
				m.changes.WithLabelValues(changeLabel(kind, op), trigger)
			}
		}
		m.repairs.WithLabelValues(kind.Label())
		m.drift[kind.Label()] = drift.WithLabelValues(kind.Label())
	}
	m.problems = problemGauges(f)
	info := f.NewGaugeVec(gauge("build_info", "1, with the sources of this binary as labels."), []string{"version", "revision", "goversion"})
	info.WithLabelValues(cmp.Or(build.Version, "unknown"), cmp.Or(build.Revision, "unknown"), runtime.Version()).Set(1)
	registry.MustRegister(&peerCollector{latest: latest})
	registerLive(f, health)
	return m
}

// found sets the numbers of our routes in the kernel and in the desired state.
func (m *Metrics) found(routes int, desired topology.State) {
	m.installed.Set(float64(routes))
	m.desired.Set(float64(len(desired.Routes)))
}

// applied counts changes by trigger, and returns how many there are.
func (m *Metrics) applied(c plan.Changes, by outcome) int {
	type count struct{ label, trigger string }
	changes, repairs := map[count]int{}, map[string]int{}
	all := c.Distinct()
	for _, x := range all {
		trigger := by.trigger
		if len(by.triggers) > 0 {
			trigger = by.triggerOf(x.Key())
		}
		changes[count{changeLabel(x.Kind(), x.Op), trigger}]++
		if trigger == triggerRepair {
			repairs[x.Kind().Label()]++
		}
	}
	for of, n := range changes {
		m.changes.WithLabelValues(of.label, of.trigger).Add(float64(n))
	}
	for label, n := range repairs {
		m.repairs.WithLabelValues(label).Add(float64(n))
	}
	return len(all)
}

// wrote adjusts the number of our routes in the kernel after a change.
func (m *Metrics) wrote(c plan.Changes) {
	for range plan.Each[plan.Route](c, plan.Add) {
		m.installed.Inc()
	}
	for range plan.Each[plan.Route](c, plan.Delete) {
		m.installed.Dec()
	}
}

// changeLabel returns the label "kind" of a change. For routes it contains the operation.
func changeLabel(kind plan.Kind, op plan.Op) string {
	if kind == plan.KindRoute {
		return "route_" + string(op)
	}
	return kind.Label()
}

func (m *Metrics) observeLatency(since time.Time) {
	if !since.IsZero() {
		m.latency.Observe(time.Since(since).Seconds())
	}
}

// reported sets the metrics of a pass's result.
func (m *Metrics) reported(r *status.Result, failed bool) {
	m.nodes.Set(float64(len(r.Nodes)))
	m.ready.Set(number(r.Ready))
	if failed {
		m.failures.Inc()
	} else if r.API.Synced {
		m.success.Set(float64(r.Pass.Time.Add(r.Pass.Duration).UnixMilli()) / 1000)
	}
	drift := map[string]int{}
	for _, x := range r.Undone.Distinct() {
		drift[x.Kind().Label()]++
	}
	for label, gauge := range m.drift {
		gauge.Set(float64(drift[label]))
	}
	counts := map[problemLabels]int{}
	for _, p := range r.Problems {
		counts[problemLabels{p.Reason, p.BlocksReady}]++
	}
	for c, gauge := range m.problems {
		gauge.Set(float64(counts[c]))
	}
	m.passes.Observe(r.Pass.Duration.Seconds())
}
