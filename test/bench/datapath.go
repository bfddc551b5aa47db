package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// The paths of packets, each between two nodes of one LAN. The nodes of a pair have the same setting:
//
//	node1, node2: --encapsulation=never    pod - plainroute0 - eth0 - LAN - eth0 - plainroute0 - pod
//	node3, node4: --encapsulation=always   the same, with plainroute-v4 or plainroute-v6 before eth0
//
// Beside each is host to host, from eth0 to eth0 of the same pair.
const (
	byRoutes = "plain routes"
	byVXLAN  = "VXLAN"
)

// A path is where packets are sent from and to.
type path struct {
	from, to *netlab.Host
	addr     netip.Addr // of to
}

// A pair is two nodes with a pod each.
type pair struct {
	name      string
	nodes     []*nodelab.Node
	least     float64 // the least ratio of the throughput of pods to that of hosts
	host, pod path
}

// A trait is what is measured of a path for a while. A measurement returns the figures of its parts.
type trait struct {
	name    string
	link    uint64 // the rate of the nodes' links in bits per second; 0: they are as fast as the CPU
	parts   []part
	measure func(context.Context, path, time.Duration) ([]float64, error)
}

// A part is one figure. That of pods to that of hosts must not be below the pair's limit if it is
// bounded.
type part struct {
	name, unit string
	bounded    bool
}

func traits() []trait {
	streams := func(n int) func(context.Context, path, time.Duration) ([]float64, error) {
		return func(ctx context.Context, p path, length time.Duration) ([]float64, error) {
			return throughput(ctx, p, n, length)
		}
	}
	bits := []part{{"", "Gbit/s", true}, {" per core", "Gbit/s", false}}
	return []trait{
		{"TCP, one stream, on links of 1 Gbit/s", 1e9, bits[:1], streams(1)},
		{"TCP, one stream, on links of 10 Gbit/s", 1e10, bits[:1], streams(1)},
		{"TCP, one stream", 0, bits, streams(1)},
		{"TCP, four streams", 0, bits, streams(4)},
		{"TCP, a byte there and back", 0, []part{{", median", "us", false}, {", 99th percentile", "us", false}}, latency},
		{"UDP, 64 bytes, received", 0, []part{{"", "k/s", false}, {" per core", "k/s", false}}, packets},
	}
}

// measureDatapath measures the paths by turns, in several rounds, and prints the medians.
func measureDatapath(ctx context.Context, opts options) error {
	progress("starting four nodes")
	cluster, err := nodelab.Start(ctx, opts.Config)
	if err != nil {
		return err
	}
	families := []func(*netlab.Host) netip.Addr{func(h *netlab.Host) netip.Addr { return h.V4 }}
	if opts.dualStack {
		families = append(families, func(h *netlab.Host) netip.Addr { return h.V6 })
	}
	pairs, err := newPairs(ctx, cluster)
	if err != nil {
		return err
	}
	r := &report{DualStack: opts.dualStack}
	for _, address := range families {
		if err := measurePairs(ctx, opts, r, pairs, address); err != nil {
			return err
		}
	}
	return r.finish(os.Stdout, opts)
}

// newPairs makes the nodes and their pods.
func newPairs(ctx context.Context, c *nodelab.Cluster) ([]pair, error) {
	pairs := []pair{{name: byRoutes, least: 0.95}, {name: byVXLAN, least: 0.8}}
	var nodes []*nodelab.Node
	for index, setting := range []string{"never", "never", "always", "always"} {
		node, err := c.NewNode(index + 1)
		if err == nil {
			err = node.Register(ctx)
		}
		if err == nil {
			err = node.StartAgent(nodelab.AgentOptions{Args: []string{"--encapsulation=" + setting}})
		}
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, node)
	}
	for i := range pairs {
		var pods [2]*nodelab.Pod
		ends := nodes[2*i : 2*i+2]
		for j, node := range ends {
			if err := node.WaitReady(ctx); err != nil {
				return nil, err
			}
			if err := node.AwaitRoute(ctx, ends[1-j].Subnets...); err != nil {
				return nil, err
			}
			pod, err := node.AddPod(ctx, "bench")
			if err != nil {
				return nil, err
			}
			pods[j] = pod
		}
		pairs[i].nodes = ends
		pairs[i].host = path{from: ends[0].Host, to: ends[1].Host}
		pairs[i].pod = path{from: pods[0].Host, to: pods[1].Host}
	}
	return pairs, nil
}

// A series has the values of one part of a trait, by rounds.
type series struct{ host, pod []float64 }

// measurePairs measures all traits in one family. In each round pods follow hosts, so that both have
// the machine's same load.
func measurePairs(ctx context.Context, opts options, r *report, pairs []pair, address func(*netlab.Host) netip.Addr) error {
	all := make([][][]series, len(pairs)) // by pair, trait and part
	for i := range pairs {
		pairs[i].host.addr, pairs[i].pod.addr = address(pairs[i].host.to), address(pairs[i].pod.to)
		for _, t := range traits() {
			all[i] = append(all[i], make([]series, len(t.parts)))
		}
	}
	for round := range opts.rounds {
		progress("IPv%s, round %d of %d", familyOf(pairs), round+1, opts.rounds)
		for at, t := range traits() {
			for i, p := range pairs {
				if err := measureBeside(ctx, t, p, opts.length, all[i][at]); err != nil {
					return fmt.Errorf("%s, %s: %w", t.name, p.name, err)
				}
			}
		}
	}
	for i, p := range pairs {
		for at, t := range traits() {
			for n, s := range all[i][at] {
				r.addSeries("IPv"+familyOf(pairs)+", "+t.name+t.parts[n].name, p, t.parts[n], s)
			}
		}
	}
	return nil
}

func familyOf(pairs []pair) string {
	if pairs[0].host.addr.Is4() {
		return "4"
	}
	return "6"
}

// measureBeside measures a trait of hosts and then of their pods.
func measureBeside(ctx context.Context, t trait, p pair, length time.Duration, parts []series) error {
	if t.link > 0 {
		unlimit, err := limitLinks(p.nodes, t.link)
		if err != nil {
			return err
		}
		defer unlimit()
	}
	host, err := t.measure(ctx, p.host, length)
	if err != nil {
		return err
	}
	pod, err := t.measure(ctx, p.pod, length)
	if err != nil {
		return err
	}
	for i := range parts {
		parts[i].host, parts[i].pod = append(parts[i].host, host[i]), append(parts[i].pod, pod[i])
	}
	return testutil.Pause(ctx, restBetween)
}

// addSeries adds the medians of a part, and the median of the rounds' ratios.
func (r *report) addSeries(name string, p pair, of part, s series) {
	var ratios []float64
	for i := range s.host {
		ratios = append(ratios, s.pod[i]/s.host[i])
	}
	r.add(name+", host to host beside "+p.name, median(s.host), of.unit, 0)
	r.add(name+", pod to pod by "+p.name, median(s.pod), of.unit, 0)
	ratio := result{Name: name + ", pod to pod by " + p.name, Value: median(ratios), Unit: ofHosts}
	if of.bounded {
		ratio.Least = p.least
	}
	r.Results = append(r.Results, ratio)
	progress("%s: %.2f to %.2f", ratio.Name, slices.Min(ratios), slices.Max(ratios))
}
