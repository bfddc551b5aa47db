package controllers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Metrics are what Prometheus sees. No label takes a value that a Node chooses.
type Metrics struct {
	ready     prometheus.Gauge
	nodes     prometheus.Gauge
	problems  *prometheus.GaugeVec
	desired   prometheus.Gauge
	installed prometheus.Gauge
	changes   *prometheus.CounterVec
	repairs   *prometheus.CounterVec
	passes    prometheus.Histogram
	latency   prometheus.Histogram
	success   prometheus.Gauge
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(registry prometheus.Registerer, version string) *Metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "plainroute", Name: name, Help: help})
	}
	seconds := prometheus.ExponentialBuckets(0.0005, 2, 16)
	m := &Metrics{
		ready:     gauge("ready", "1 if this node's pods are served as they should be."),
		nodes:     gauge("nodes", "Nodes in the last view, our own too."),
		desired:   gauge("routes_desired", "Routes that should be in the kernel."),
		installed: gauge("routes_installed", "Routes of ours that the last pass found in the kernel."),
		success:   gauge("last_success_timestamp_seconds", "When the last pass without an error ended."),
		problems: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "plainroute", Name: "problems",
			Help: "Problems by reason, and whether they keep this node from being ready.",
		}, []string{"reason", "own"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "plainroute", Name: "changes_total",
			Help: "Changes made to the host.",
		}, []string{"kind"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "plainroute", Name: "repairs_total",
			Help: "Things put back that somebody had taken away or changed.",
		}, []string{"kind"}),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "plainroute", Name: "pass_duration_seconds",
			Help: "Time that a pass took.", Buckets: seconds,
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "plainroute", Name: "node_event_to_kernel_seconds",
			Help: "Time from a Node's change on the wire to the kernel.", Buckets: seconds,
		}),
	}
	info := gauge("build_info", "1, with the version as a label.")
	if version != "" {
		info = prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "plainroute", Name: "build_info",
			Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": version},
		})
	}
	info.Set(1)
	registry.MustRegister(m.ready, m.nodes, m.problems, m.desired, m.installed, m.changes, m.repairs, m.passes, m.latency, m.success, info)
	return m
}

// applied counts changes by kind, and returns how many there are.
func (m *Metrics) applied(c plan.Changes) int {
	table := 0
	if c.Table != nil || c.DeleteTable {
		table = 1
	}
	sum := 0
	for kind, n := range map[string]int{
		"sysctl": len(c.Sysctls), "address": len(c.AddAddresses) + len(c.DeleteAddresses), "route_add": len(c.Add), "route_replace": len(c.Replace), "route_delete": len(c.Delete), "table": table,
	} {
		m.changes.WithLabelValues(kind).Add(float64(n))
		sum += n
	}
	return sum
}

// repaired counts what was put back, by kind.
func (m *Metrics) repaired(keys []plan.Key) {
	for _, k := range keys {
		m.repairs.WithLabelValues(kindLabels[k.Kind]).Inc()
	}
}

// kindLabels are kinds as Prometheus would have them.
var kindLabels = map[plan.Kind]string{
	plan.KindSysctl: "sysctl", plan.KindAddress: "address", plan.KindRoute: "route", plan.KindTable: "table", plan.KindCNI: "cni",
}

func (m *Metrics) observed(actual, desired topology.State) {
	m.installed.Set(float64(len(actual.Routes)))
	m.desired.Set(float64(len(desired.Routes)))
}

func (m *Metrics) observeLatency(since time.Time) {
	if !since.IsZero() {
		m.latency.Observe(time.Since(since).Seconds())
	}
}

func (m *Metrics) reported(r *status.Result) {
	m.nodes.Set(float64(len(r.Nodes)))
	m.passes.Observe(r.Pass.Duration.Seconds())
	m.ready.Set(0)
	if r.Ready {
		m.ready.Set(1)
		m.success.Set(float64(r.Pass.Time.Add(r.Pass.Duration).Unix()))
	}
	m.problems.Reset()
	for _, p := range r.Problems {
		own := "false"
		if p.Own {
			own = "true"
		}
		m.problems.WithLabelValues(string(p.Reason), own).Inc()
	}
}
