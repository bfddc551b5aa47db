package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// rolled is the part of the agents that a rollout restarts at a time.
const rolled = 10

// restLength has some PINGs of each agent, which come every 5 s, and half of the bookmarks of a minute.
const restLength = 30 * time.Second

// measureFleet measures what many agents cost the API server: at a start of all, in a rollout, after a restart of the server,
// and for each change of a Node.
func measureFleet(ctx context.Context, opts options) error {
	progress("starting the control plane")
	l, err := newLab(ctx, opts)
	if err != nil {
		return err
	}
	progress("creating %d Nodes", opts.nodes)
	if err := l.populate(ctx); err != nil {
		return err
	}
	r := &report{Nodes: opts.nodes}
	if err := measureList(ctx, l, r); err != nil {
		return err
	}
	r.Results = nil
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig(opts.Dir, nodelab.AgentUser))
	if err != nil {
		return err
	}
	config.QPS, config.DisableCompression = -1, true
	for _, name := range []string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS", "HTTP2_PING_TIMEOUT_SECONDS"} {
		if _, set := os.LookupEnv(name); !set { // as in cmd/plainroute
			if err := os.Setenv(name, "5"); err != nil {
				return err
			}
		}
	}
	klog.SetLogger(logr.Discard()) // each retry of each agent is a line
	f := &fleet{config: config, agents: make([]*fleetAgent, opts.agents)}
	err = l.measurePhases(ctx, f, r)
	return errors.Join(err, r.finish(os.Stdout, opts))
}

// fleetSections are what -only selects from with -agents, in their order.
var fleetSections = []string{"start", "roll", "roll-unsaved", "change", "rest", "again", "server"}

func (l *lab) measurePhases(ctx context.Context, f *fleet, r *report) error {
	chosen := func(name string) bool { return slices.Contains(l.opts.wanted(), name) }
	if err := l.firstStart(ctx, f, r, chosen("start")); err != nil {
		return err
	}
	for _, p := range []struct {
		section, name string
		run           func() error
	}{
		{"roll", "a rollout, 10 % at a time, with the saved view", func() error { return f.roll(ctx, true) }},
		{"roll-unsaved", "a rollout, 10 % at a time, without", func() error { return f.roll(ctx, false) }},
		{"change", fmt.Sprintf("%d Nodes change", fewNodes), func() error { return l.changeNodes(ctx, fewNodes) }},
		{"rest", fmt.Sprintf("all at rest for %s", restLength), func() error { return testutil.Pause(ctx, restLength) }},
		{"again", "all restart at once, with the saved view", func() error { return f.restart(ctx, 0, len(f.agents), true) }},
		{"server", "the API server restarts", func() error { return l.restartServer(ctx, f) }},
	} {
		if !chosen(p.section) {
			continue
		}
		if err := l.phase(ctx, f, r, p.name, p.run); err != nil {
			return err
		}
	}
	return nil
}

// firstStart starts all agents: without a saved view, or by the view of one of them, whose Nodes they share in memory.
func (l *lab) firstStart(ctx context.Context, f *fleet, r *report, unsaved bool) error {
	if unsaved {
		return l.phase(ctx, f, r, "all start at once, without a saved view", func() error { return f.startAll(ctx, nil) })
	}
	one := &fleet{config: f.config, agents: make([]*fleetAgent, 1)}
	err := l.phase(ctx, one, r, "one agent starts without a saved view", func() error { return one.start(ctx, ownIndex, nil) })
	if err != nil {
		return err
	}
	view := one.agents[0].view()
	one.agents[0].stop()
	return l.phase(ctx, f, r, "all start at once, with the saved view", func() error { return f.startAll(ctx, view) })
}

func (f *fleet) startAll(ctx context.Context, view *nodes.Saved) error {
	for index := range f.agents {
		if err := f.start(ctx, index, view); err != nil {
			return err
		}
	}
	return nil
}

// roll restarts a part of the agents at a time.
func (f *fleet) roll(ctx context.Context, saved bool) error {
	for part := range rolled {
		from, to := part*len(f.agents)/rolled, (part+1)*len(f.agents)/rolled
		if err := f.restart(ctx, from, to, saved); err != nil {
			return err
		}
		if err := f.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// changeNodes writes the status of some Nodes, as kubelets do.
func (l *lab) changeNodes(ctx context.Context, count int) error {
	for index := range count {
		if err := l.patchStatus(ctx, 1+index, types.StrategicMergePatchType, "conditions", conditions(time.Now())); err != nil {
			return err
		}
	}
	return nil
}

// restartServer kills the API server, waits until all agents have noticed, and starts it again.
func (l *lab) restartServer(ctx context.Context, f *fleet) error {
	if err := l.cluster.API.Kill(); err != nil {
		return err
	}
	err := testutil.Poll(ctx, fleetTick, func() error {
		if n := f.watching(); n > 0 {
			return fmt.Errorf("%d agents still watch an API server that was killed", n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := l.cluster.API.Restart(); err != nil {
		return err
	}
	return l.cluster.API.Await(ctx)
}

// phase runs one thing and adds what it costs until all agents have settled. A server that was restarted meanwhile has used no
// CPU before.
func (l *lab) phase(ctx context.Context, f *fleet, r *report, name string, run func() error) error {
	progress("measuring: %s", name)
	runtime.GC()
	before, cpuBefore, err := l.server(true)
	if err != nil {
		return err
	}
	received, dialed, calmed, start := f.received.Load(), f.dialed.Load(), f.calmed, time.Now()
	if err := run(); err != nil {
		return err
	}
	if err := f.settle(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(start) - (f.calmed - calmed)
	after, cpu, err := l.server(false)
	if err != nil {
		return err
	}
	if after == before {
		cpu -= cpuBefore
	}
	mib, err := after.peakMemory()
	if err != nil {
		return err
	}
	bytes := float64(f.received.Load() - received)
	r.add(name+": until all have their view", seconds(took), "s", 0)
	r.add(name+": sent to all", bytes/1e6, "MB", 0)
	r.add(name+": sent to each", bytes/1e3/float64(len(f.agents)), "KB", 0)
	r.add(name+": the API server's CPU", seconds(cpu), "s", 0)
	r.add(name+": its peak resident memory", mib, "MiB", 0)
	r.add(name+": new connections", float64(f.dialed.Load()-dialed), "", 0)
	return nil
}

// server returns the API server's process and its CPU time, and lets its peak memory begin anew.
func (l *lab) server(anew bool) (process, time.Duration, error) {
	pid, err := l.cluster.API.PID()
	if err != nil {
		return 0, 0, err
	}
	p := process(pid)
	if anew {
		if err := p.resetPeak(); err != nil {
			return 0, 0, fmt.Errorf("resetting the peak memory of the API server: %w", err)
		}
	}
	cpu, err := p.cpu()
	return p, cpu, err
}
