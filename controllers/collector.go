package controllers

import (
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

const namespace = "plainroute"

func gauge(name, help string) prometheus.GaugeOpts {
	return prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}
}

func counter(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}
}

// histogram returns the options of a histogram of seconds, with buckets from 0.5 ms to 16 s.
func histogram(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}
}

// problemGauges returns a gauge for each Reason, by whether it blocks readiness.
func problemGauges(f promauto.Factory) map[problemLabels]prometheus.Gauge {
	all := map[problemLabels]prometheus.Gauge{}
	vec := f.NewGaugeVec(gauge("problems", "Problems by reason, and by whether they block readiness."), []string{"reason", "own"})
	for _, reason := range problem.Reasons() {
		for _, own := range []bool{false, true} {
			if own && reason.Scope() == problem.OfOthers {
				continue
			}
			all[problemLabels{reason, own}] = vec.WithLabelValues(string(reason), strconv.FormatBool(own))
		}
	}
	return all
}

// registerLive registers the metrics that change without a pass.
func registerLive(f promauto.Factory, health func() nodes.Health) {
	f.NewGaugeFunc(gauge("watch_established", "1 while a watch of Nodes is open."), func() float64 { return number(health().Watching) })
	f.NewGaugeFunc(gauge("api_heard_timestamp_seconds", "When the API server last sent anything about Nodes, including bookmarks; 0: never."), func() float64 {
		if at := health().LastContact; !at.IsZero() {
			return float64(at.UnixNano()) / 1e9
		}
		return 0
	})
}

// number returns the value of a gauge that is 0 or 1.
func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// peerCollector counts peers by state when Prometheus scrapes, because no pass needs the numbers, and
// once for each pass. It keeps no Result, which among thousands of Nodes takes a megabyte.
type peerCollector struct {
	latest *status.Latest

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
	if last := c.latest.Last(); last.Pass.Number != c.pass {
		c.pass, c.counts = last.Pass.Number, last.CountPeers()
	}
	return c.counts
}
