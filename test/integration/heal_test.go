package integration

import (
	"slices"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/cluster"
)

// healLimit is ten times what it should take, for machines under load and for the race detector.
const healLimit = 200 * time.Millisecond

func TestDeletedRouteComesBack(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	node := f.nodes[0]
	for _, subnet := range subnetsOf(f.nodes[1], node) {
		var took []time.Duration
		for range 9 {
			duration, err := node.Heal(ctx, subnet)
			must(t, err)
			took = append(took, duration)
		}
		slices.Sort(took)
		median := took[len(took)/2]
		t.Logf("route to %s back after %s (median of %d; longest %s)", subnet, median, len(took), took[len(took)-1])
		if median > healLimit {
			t.Errorf("route to %s: want at most %s", subnet, healLimit)
		}
	}
}

// A running flow survives the loss of its route: it is away for less than the time between two packets, or so.
func TestFlowOverDeletedRoute(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	flow, err := f.pods[0].StartFlow(f.pods[2].V4)
	must(t, err)
	for range 5 {
		_, err := f.nodes[0].Heal(ctx, f.nodes[1].Subnets[0])
		must(t, err)
		must(t, flow.Run(ctx, 5))
	}
	count := flow.Stop()
	t.Log(count)
	if count.LongestGap > healLimit {
		t.Errorf("%s: want no gap over %s", count, healLimit)
	}
}

// All at once: what a route daemon that flushes the table does.
func TestAllRoutesDeleted(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	node := f.nodes[2]
	all := subnetsOf(f.nodes...)
	delays, err := cluster.AwaitRoutes(ctx, []*cluster.Node{node}, true, all, func() error {
		for _, subnet := range all {
			if err := node.DeleteRoute(subnet); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	report(t, "all routes back", delays, healLimit)
}
