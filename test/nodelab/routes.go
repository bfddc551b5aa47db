package nodelab

import (
	"context"
	"net/netip"
	"time"

	"github.com/plainroute/plainroute/test/netlab"
)

// Delay is the time until a node's kernel showed a change that was made elsewhere.
type Delay struct {
	Node string
	Took time.Duration
}

// AwaitRoutes calls cause and measures, on each node, the time from the call to the kernel's notification that the
// agent's routes to all of subnets came (added) or went.
func AwaitRoutes(
	ctx context.Context, nodes []*Node, added bool, subnets []netip.Prefix, cause func() error,
) ([]Delay, error) {
	var watches []*netlab.RouteWatch
	defer func() {
		for _, watch := range watches {
			watch.Close()
		}
	}()
	for _, node := range nodes {
		watch, err := node.WatchRoutes()
		if err != nil {
			return nil, err
		}
		watches = append(watches, watch)
	}
	start := time.Now()
	if err := cause(); err != nil {
		return nil, err
	}
	var delays []Delay
	for i, watch := range watches {
		event, err := watch.AwaitAll(ctx, added, subnets)
		if err != nil {
			return nil, err
		}
		delays = append(delays, Delay{Node: nodes[i].Name, Took: event.At.Sub(start)})
	}
	return delays, nil
}

// Heal deletes the agent's route to a subnet by hand and measures the time until it is back.
func (n *Node) Heal(ctx context.Context, to netip.Prefix) (time.Duration, error) {
	delays, err := AwaitRoutes(ctx, []*Node{n}, true, []netip.Prefix{to}, func() error { return n.DeleteRoute(to) })
	if err != nil {
		return 0, err
	}
	return delays[0].Took, nil
}
