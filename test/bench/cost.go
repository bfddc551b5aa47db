package main

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/test/testutil"
)

// betweenHeartbeats makes each heartbeat an event of its own, as it is in life: in a burst the agent would read
// several at a time.
const betweenHeartbeats = 10 * time.Millisecond

// measureHeartbeat measures the agent's CPU time for a kubelet's heartbeats, which change no route, and beside it that of a
// program that throws away what it reads of the same watch.
func measureHeartbeat(ctx context.Context, l *lab, r *report) error {
	reader, stop, err := l.startReader(ctx)
	if err != nil {
		return err
	}
	defer stop()
	pids := []int{l.agent.cmd.Process.Pid, reader.Process.Pid}
	before, err := processTimes(pids)
	if err != nil {
		return err
	}
	for i := range l.opts.heartbeats {
		if err := l.patchStatus(ctx, 1+i%(l.opts.nodes-1), types.StrategicMergePatchType, "conditions", conditions(time.Now())); err != nil {
			return err
		}
		if err := testutil.Pause(ctx, betweenHeartbeats); err != nil {
			return err
		}
	}
	if err := testutil.Pause(ctx, time.Second); err != nil {
		return err
	}
	after, err := processTimes(pids)
	if err != nil {
		return err
	}
	each := func(i int) float64 { return float64(after[i]-before[i]) / float64(l.opts.heartbeats) / 1000 }
	r.add("CPU for one status heartbeat of one Node", each(0), "us", 0)
	r.add("the same of a program that throws it away (a yardstick)", each(1), "us", 0)
	r.add("the agent's beyond that", each(0)-each(1), "us", 150)
	return nil
}

func processTimes(pids []int) (all []time.Duration, err error) {
	for _, pid := range pids {
		used, failure := process(pid).cpu()
		all, err = append(all, used), errors.Join(err, failure)
	}
	return all, err
}

// measureIdle measures the agent's CPU time when nothing happens.
func measureIdle(ctx context.Context, l *lab, r *report) error {
	before, err := l.agent.cpu()
	if err != nil {
		return err
	}
	if err := testutil.Pause(ctx, l.opts.idle); err != nil {
		return err
	}
	after, err := l.agent.cpu()
	if err != nil {
		return err
	}
	r.add("CPU when nothing happens", 100*float64(after-before)/float64(l.opts.idle), "%", 0.1)
	return nil
}
