package e2e

import (
	"context"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/plainroute/plainroute/test/testutil"
)

// routedPairs asks the kernel of each node which others it reaches by a gateway. There are none unless -cross-subnet is set.
func routedPairs(ctx context.Context, nodes []node) (sets.Set[[2]string], error) {
	pairs := sets.New[[2]string]()
	if !*crossSubnet {
		return pairs, nil
	}
	var command strings.Builder
	for _, to := range nodes {
		command.WriteString("ip -oneline route get " + to.addresses[0].String() + ";")
	}
	for _, from := range nodes {
		routes, err := onNode(ctx, from.name, command.String())
		if err != nil {
			return nil, err
		}
		for i, route := range strings.Split(strings.TrimSpace(routes), "\n") {
			if strings.Contains(route, " via ") {
				pairs.Insert([2]string{from.name, nodes[i].name})
			}
		}
	}
	return pairs, nil
}

func (s scene) isRouted(from, to string) bool { return s.routed.Has([2]string{from, to}) }

// tunnels: each node's routes to the pods of nodes behind a router lead into a tunnel, and those to all others don't.
func (s *story) tunnels(ctx context.Context, t *testing.T) {
	if !*crossSubnet {
		t.Skip("-cross-subnet is unset: all nodes are on one link")
	}
	now := s.scene(ctx, t)
	if len(now.routed) == 0 {
		t.Fatal("no node is behind a router, so this shows nothing")
	}
	for _, from := range now.nodes {
		routes, err := ourRoutes(ctx, from.name)
		testutil.Must(t, err)
		for _, to := range now.nodes {
			for _, subnet := range to.subnets {
				route, want := routeTo(routes, subnet), now.isRouted(from.name, to.name)
				if strings.Contains(route, " dev plainroute-v") != want {
					t.Errorf("node %s has the route %q to node %s; want one by a tunnel: %t", from.name, route, to.name, want)
				}
			}
		}
	}
	t.Logf("%d of %d pairs of nodes have a router between them", len(now.routed), len(now.nodes)*(len(now.nodes)-1))
}
