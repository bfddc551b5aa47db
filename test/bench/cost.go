package main

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/test/testutil"
)

// betweenHeartbeats makes each heartbeat an event of its own, as it is in life: in a burst the agent would read
// several at a time.
const betweenHeartbeats = 10 * time.Millisecond

// measureHeartbeat measures the agent's CPU time for a kubelet's heartbeats, which change no route.
func measureHeartbeat(ctx context.Context, l *lab, r *report) error {
	before, err := l.agent.cpu()
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
	after, err := l.agent.cpu()
	if err != nil {
		return err
	}
	each := (after - before) / time.Duration(l.opts.heartbeats)
	r.add("CPU for one status heartbeat of one Node", float64(each.Nanoseconds())/1000, "us", 150)
	return nil
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
