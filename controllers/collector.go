package controllers

import (
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// maker makes metrics that are registered.
type maker struct{ registry prometheus.Registerer }

const namespace = "plainroute"

func (f maker) register(c prometheus.Collector) { f.registry.MustRegister(c) }

func (f maker) gauge(name, help string) prometheus.Gauge {
	m := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	f.register(m)
	return m
}

func (f maker) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	m := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	f.register(m)
	return m
}

func (f maker) counter(name, help string) prometheus.Counter {
	m := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	f.register(m)
	return m
}

func (f maker) counters(name, help string, labels ...string) *prometheus.CounterVec {
	m := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	f.register(m)
	return m
}

func (f maker) histogram(name, help string) prometheus.Histogram {
	m := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: seconds()})
	f.register(m)
	return m
}

// problems makes a gauge for each kind of Problem that there can be.
func (f maker) problems() map[complaint]prometheus.Gauge {
	all := map[complaint]prometheus.Gauge{}
	vec := f.gauges("problems", "Problems by reason, and whether they keep this node from being ready.", "reason", "own")
	for _, reason := range topology.Reasons() {
		for _, own := range []bool{false, true} {
			if own && reason.Subject() == topology.OfOthers {
				continue
			}
			all[complaint{reason, own}] = vec.WithLabelValues(string(reason), strconv.FormatBool(own))
		}
	}
	return all
}

// live makes the metrics that change without a pass.
func (f maker) live(nodes *NodeSource) {
	f.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "watch_established",
		Help: "1 while a watch of Nodes is open.",
	}, func() float64 {
		if nodes.watches.Load() > 0 {
			return 1
		}
		return 0
	}))
	f.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "api_heard_timestamp_seconds",
		Help: "When the API server last sent anything about Nodes, be it a bookmark; 0: never.",
	}, func() float64 { return float64(nodes.heard.Load()) / 1e9 }))
}

// peerCollector counts peers by state when Prometheus asks, for a pass has no need to
// know, and once for each pass. It keeps no Result, which among thousands of Nodes takes
// a megabyte.
type peerCollector struct {
	board *status.Board

	mu     sync.Mutex
	pass   int64 // that counts are of
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
