package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/test/testutil"
)

// lists is how often the list is measured; the first one also makes the API server and its connections warm.
const lists = 3

// startLimit bounds a start: the kernel takes minutes to add 100,000 routes by one device, because it compares the next hop of
// each with all others (fib_create_info of net/ipv4/fib_semantics.c).
const startLimit = 10 * time.Minute

// measureList measures what a plain client-go client needs to list all Nodes: a yardstick of the machine, so that
// figures of different machines can be compared as ratios.
func measureList(ctx context.Context, l *lab, r *report) error {
	progress("measuring: list")
	var took []time.Duration
	for range lists {
		start := time.Now()
		nodes, err := l.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("listing Nodes: %w", err)
		}
		took = append(took, time.Since(start))
		r.NodeBytes = nodes.Items[len(nodes.Items)/2].Size()
	}
	r.add("list of all Nodes by a plain client (a yardstick)", seconds(median(took)), "s", 0)
	return nil
}

// measureStart starts the agent on an empty table, several times, and leaves the last one running.
func measureStart(ctx context.Context, l *lab, r *report) error {
	progress("measuring: start")
	var took, used []time.Duration
	var memory []float64
	for i := range l.opts.starts {
		if i > 0 {
			if err := l.agent.stop(ctx); err != nil {
				return err
			}
		}
		at, cpu, mib, err := l.startOnce(ctx)
		if err != nil {
			return err
		}
		took, used, memory = append(took, at), append(used, cpu), append(memory, mib)
		progress("start %d: %.2f s, CPU %.2f s, %.1f MiB", i+1, at.Seconds(), cpu.Seconds(), mib)
	}
	most, mem := startLimits(l.opts.nodes)
	if l.opts.offLink {
		r.add("start to last route, neighbor and FDB entry, median", seconds(median(took)), "s", 2)
	} else {
		r.add("start to last route, median", seconds(median(took)), "s", most)
	}
	r.add("CPU to get there, median", seconds(median(used)), "s", 1.2)
	r.add("peak resident memory until then, worst", worst(memory), "MiB", mem)
	if err := testutil.Pause(ctx, l.opts.settle); err != nil {
		return err
	}
	mib, err := l.agent.peakMemory()
	if err != nil {
		return err
	}
	r.add(fmt.Sprintf("peak resident memory %s later", l.opts.settle), mib, "MiB", mem)
	return l.complete()
}

// startLimits are those of the time of a start, in seconds, and of the peak memory, in MiB.
func startLimits(nodes int) (seconds, mib float64) {
	switch {
	case nodes <= 5000:
		return 1.3, 50
	case nodes <= 15000:
		return 3, 90
	}
	return 6, 400 // 100,000
}

// startOnce is one start on a new machine: the time to the last route, and the CPU time and memory used until then.
func (l *lab) startOnce(ctx context.Context) (took, cpu time.Duration, mib float64, err error) {
	if err := l.freshMachine(); err != nil {
		return 0, 0, 0, err
	}
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	at, err := l.routes.await(limited, l.startAgent, peers(l.peerRoutes()*l.perRoute(), true))
	if err != nil {
		return 0, 0, 0, fmt.Errorf("%w\nend of the agent's log:\n%s", err, l.agent.logTail())
	}
	if cpu, err = l.agent.cpu(); err != nil {
		return 0, 0, 0, err
	}
	mib, err = l.agent.peakMemory()
	// The figures leave out the agent's last steps, such as writing the CNI config.
	return at.Sub(l.agent.started), cpu, mib, errors.Join(err, testutil.Pause(ctx, time.Second))
}

// measureRestart restarts the agent twice: Nodes leave while it is down, and nothing changes at all.
func measureRestart(ctx context.Context, l *lab, r *report) error {
	if err := l.agent.stop(ctx); err != nil {
		return err
	}
	for index := l.opts.nodes - fewNodes; index < l.opts.nodes; index++ {
		if err := l.deleteNode(ctx, index); err != nil {
			return err
		}
	}
	l.opts.nodes -= fewNodes
	gone := fewNodes * len(l.subnets(ownIndex)) * l.perRoute()
	before := l.routes.notifications()
	beating, stop := context.WithCancel(ctx)
	defer stop()
	go l.beat(beating)
	at, err := l.routes.await(ctx, l.startAgent, peers(gone, false))
	if err != nil {
		return err
	}
	stop()
	if err := l.settled(ctx); err != nil {
		return err
	}
	r.add(fmt.Sprintf("restart to routes of %d Nodes that left gone", fewNodes), seconds(at.Sub(l.agent.started)), "s", 0)
	r.add("changes to other routes meanwhile", float64(l.routes.notifications()-before-gone), "", exactly0)

	if err := l.agent.stop(ctx); err != nil {
		return err
	}
	before = l.routes.notifications()
	if err := l.startAgent(); err != nil {
		return err
	}
	if err := l.settled(ctx); err != nil {
		return err
	}
	r.add("route changes by a restart over a correct table", float64(l.routes.notifications()-before), "", exactly0)
	return errors.Join(l.measureRepair(ctx, r, true), l.measureRepair(ctx, r, false), l.complete())
}

// beat sends heartbeats as often as the kubelets of 5,000 Nodes do, every 5 minutes each.
func (l *lab) beat(ctx context.Context) {
	for testutil.Pause(ctx, 60*time.Millisecond) == nil {
		_ = l.patchStatus(ctx, 1, types.StrategicMergePatchType, "conditions", conditions(time.Now()))
	}
}

// measureRepair restarts the agent after a route was deleted, with or without the Nodes that it saved, and measures when
// that route is back and what the API server has sent a while later.
func (l *lab) measureRepair(ctx context.Context, r *report, saved bool) error {
	how := map[bool]string{true: "with the saved Nodes", false: "without them"}[saved]
	routes, err := l.ours()
	if err != nil {
		return err
	}
	if err := errors.Join(l.agent.stop(ctx), l.link.RouteDel(&routes[len(routes)/2])); err != nil {
		return err
	}
	if !saved {
		if err := os.Remove(filepath.Join(l.machine.RunDir, "nodes")); err != nil {
			return err
		}
	}
	before, err := l.received()
	if err != nil {
		return err
	}
	at, err := l.routes.await(ctx, l.startAgent, func(e routeEvent) bool { return e.added })
	if err != nil {
		return err
	}
	cpu, err := l.agent.cpu()
	if err := errors.Join(err, l.settled(ctx)); err != nil {
		return err
	}
	after, err := l.received()
	r.add("restart to first repair "+how, milliseconds(at.Sub(l.agent.started)), "ms", 0)
	r.add("CPU until then, "+how, milliseconds(cpu), "ms", 0)
	r.add("received until 2 s after that, "+how, float64(after-before)/1024, "KiB", 0)
	return err
}

// received returns the bytes that the machine has received on its NIC.
func (l *lab) received() (uint64, error) {
	eth0, err := l.link.LinkByName("eth0")
	if err != nil {
		return 0, fmt.Errorf("reading the counters of eth0: %w", err)
	}
	return eth0.Attrs().Statistics.RxBytes, nil
}

// settled waits until the agent reports that it found all routes in the kernel, and for work that
// might follow.
func (l *lab) settled(ctx context.Context) error {
	want := fmt.Sprintf("plainroute_routes_desired %d\n", l.peerRoutes()+len(l.subnets(ownIndex)))
	err := testutil.Poll(ctx, 100*time.Millisecond, func() error {
		code, body, err := l.machine.Get(ctx, "/metrics")
		if err == nil && (code != http.StatusOK || !strings.Contains(body, want)) {
			err = fmt.Errorf("the metrics (status %d) have no %q", code, want)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for the agent's first pass: %w", err)
	}
	return testutil.Pause(ctx, 2*time.Second)
}
