package controllers

import (
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// factory creates metrics and registers them.
type factory struct{ registry prometheus.Registerer }

const namespace = "plainroute"

func (f factory) register(c prometheus.Collector) { f.registry.MustRegister(c) }

func (f factory) gauge(name, help string) prometheus.Gauge {
	m := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	f.register(m)
	return m
}

func (f factory) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	m := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	f.register(m)
	return m
}

func (f factory) counter(name, help string) prometheus.Counter {
	m := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	f.register(m)
	return m
}

func (f factory) counters(name, help string, labels ...string) *prometheus.CounterVec {
	m := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	f.register(m)
	return m
}

func (f factory) histogram(name, help string) prometheus.Histogram {
	m := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: seconds()})
	f.register(m)
	return m
}

// problems returns a gauge for each Reason, by whether it blocks readiness.
func (f factory) problems() map[problemLabels]prometheus.Gauge {
	all := map[problemLabels]prometheus.Gauge{}
	vec := f.gauges("problems", "Problems by reason, and whether they keep this node from being ready.", "reason", "own")
	for _, reason := range topology.Reasons() {
		for _, own := range []bool{false, true} {
			if own && reason.Subject() == topology.OfOthers {
				continue
			}
			all[problemLabels{reason, own}] = vec.WithLabelValues(string(reason), strconv.FormatBool(own))
		}
	}
	return all
}

// live registers the metrics that change without a pass.
func (f factory) live(health func() nodes.Health) {
	f.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "watch_established",
		Help: "1 while a watch of Nodes is open.",
	}, func() float64 {
		if health().Watching {
			return 1
		}
		return 0
	}))
	f.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "api_heard_timestamp_seconds",
		Help: "When the API server last sent anything about Nodes, be it a bookmark; 0: never.",
	}, func() float64 {
		if at := health().Heard; !at.IsZero() {
			return float64(at.UnixNano()) / 1e9
		}
		return 0
	}))
}

// peerCollector counts peers by state when Prometheus scrapes, because no pass needs the numbers, and
// once for each pass. It keeps no Result, which among thousands of Nodes takes a megabyte.
type peerCollector struct {
	board *status.Board

	mu     sync.Mutex
	pass   int64 // number of the pass that counts belong to
	counts map[status.PeerState]int
}

func peersDesc() *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_peers", "Pod subnets of other Nodes by state.", []string{"state"}, nil)
}

// Describe is part of prometheus.Collector.
func (c *peerCollector) Describe(descs chan<- *prometheus.Desc) { descs <- peersDesc() }

// Collect is part of prometheus.Collector.
func (c *peerCollector) Collect(metrics chan<- prometheus.Metric) {
	counts := c.count()
	for _, state := range status.PeerStates() {
		label := strings.ReplaceAll(string(state), " ", "_")
		metrics <- prometheus.MustNewConstMetric(peersDesc(), prometheus.GaugeValue, float64(counts[state]), label)
	}
}

func (c *peerCollector) count() map[status.PeerState]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.board.Last(); last.Pass.Number != c.pass {
		c.pass, c.counts = last.Pass.Number, last.CountPeers()
	}
	return c.counts
}
