package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/e2e/talk"
	"github.com/plainroute/plainroute/test/testutil"
)

// enoughPackets of each flow have been answered before anything is done to the agents, and after it.
const enoughPackets = 100

// flows run from one pod of each node to one of each other node and to the host outside, over each family: 100 packets a
// second each, and as many back.
type flows struct {
	cluster *cluster
	from    []pod
	stopped sync.Once
}

func (s *story) startFlows(ctx context.Context, t *testing.T) *flows {
	t.Helper()
	now := s.scene(ctx, t)
	f := &flows{cluster: s.cluster, from: in(now.pods, groupA)}
	t.Cleanup(func() { f.stopped.Do(func() { _, _ = f.send(context.Background(), http.MethodDelete, nil) }) })
	targets := func(from pod) []string {
		var targets []string
		for _, to := range f.from {
			if to.node == from.node {
				continue
			}
			for _, address := range to.addresses {
				targets = append(targets, netip.AddrPortFrom(address, podPort).String())
			}
		}
		for _, address := range s.outside.of(now.families) {
			targets = append(targets, netip.AddrPortFrom(address, outsidePort).String())
		}
		return targets
	}
	_, err := f.send(ctx, http.MethodPost, targets)
	testutil.Must(t, err)
	f.run(ctx, t)
	return f
}

// run lets each flow have so many more answers.
func (f *flows) run(ctx context.Context, t *testing.T) {
	t.Helper()
	before, err := f.send(ctx, http.MethodGet, nil)
	testutil.Must(t, err)
	await(ctx, t, "answers of all flows", func(ctx context.Context) error {
		reports, err := f.send(ctx, http.MethodGet, nil)
		if err != nil {
			return err
		}
		for i, report := range reports {
			if report.Answered < before[i].Answered+enoughPackets {
				return fmt.Errorf("%s", report)
			}
		}
		return nil
	})
}

// stop ends the flows; a packet lost is a failure.
func (f *flows) stop(ctx context.Context, t *testing.T) {
	t.Helper()
	var reports []talk.Report
	var err error
	f.stopped.Do(func() { reports, err = f.send(ctx, http.MethodDelete, nil) })
	testutil.Must(t, err)
	sent, lost, gap := 0, 0, time.Duration(0)
	for _, report := range reports {
		sent += report.Sent
		lost += report.Lost()
		gap = max(gap, report.LongestGap)
		if report.Lost() != 0 || report.Fault != "" {
			t.Errorf("%s: want none lost", report)
		}
	}
	t.Logf("%d flows, %d packets sent, %d lost, longest time between two answers %s", len(reports), sent, lost, gap.Round(time.Millisecond))
}

// send sends the same request to each pod that has flows; the reports are in the pods' order.
func (f *flows) send(ctx context.Context, method string, targets func(pod) []string) ([]talk.Report, error) {
	var all []talk.Report
	for _, from := range f.from {
		var what []string
		if targets != nil {
			what = targets(from)
		}
		var reports []talk.Report
		if err := f.cluster.send(ctx, from, method, "/flows", what, &reports); err != nil {
			return nil, err
		}
		all = append(all, reports...)
	}
	return all, nil
}
