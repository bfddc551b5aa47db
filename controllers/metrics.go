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
	m.drift = map[string]prometheus.Gauge{}
	drift := factory.gauges("drift", "Things that are not as they should be after the last pass.", "kind")
	for _, kind := range plan.Kinds() {
		for _, op := range []plan.Op{plan.Add, plan.Replace, plan.Delete} {
			for _, cause := range []string{causeStart, causeNode, causeHost, causeRepair} {
				m.changes.WithLabelValues(changeLabel(kind, op), cause)
			}
		}
		m.repairs.WithLabelValues(kind.Label())
		m.drift[kind.Label()] = drift.WithLabelValues(kind.Label())
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

// applied counts changes, each by its cause, and returns how many there are.
func (m *Metrics) applied(c plan.Changes, by account) int {
	type count struct{ label, cause string }
	changes, repairs := map[count]int{}, map[string]int{}
	all := c.Distinct()
	for _, x := range all {
		cause := by.trigger
		if len(by.causes) > 0 {
			cause = by.cause(x.Key())
		}
		changes[count{changeLabel(x.Kind(), x.Op), cause}]++
		if cause == causeRepair {
			repairs[x.Kind().Label()]++
		}
	}
	for of, n := range changes {
		m.changes.WithLabelValues(of.label, of.cause).Add(float64(n))
	}
	for label, n := range repairs {
		m.repairs.WithLabelValues(label).Add(float64(n))
	}
	return len(all)
}

// wrote keeps the number of our routes in step with what was done since found.
func (m *Metrics) wrote(c plan.Changes) {
	m.installed.Add(float64(len(plan.Objects[plan.Route](c, plan.Add)) - len(plan.Objects[plan.Route](c, plan.Delete))))
}

// changeLabel is what a change is counted as: of routes, what is done to them.
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
	drift := map[string]int{}
	for _, x := range r.Undone.Distinct() {
		drift[x.Kind().Label()]++
	}
	for label, gauge := range m.drift {
		gauge.Set(float64(drift[label]))
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
