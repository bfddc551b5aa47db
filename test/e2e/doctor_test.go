package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/diagnosis"
	"github.com/plainroute/plainroute/test/testutil"
)

// doctor has all nodes examined as a user does, `kubectl plainroute doctor`: no check fails; then a
// node has a foreign route, and the check fails on that node only.
func (s *story) doctor(ctx context.Context, t *testing.T) {
	plugin(t)
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	start := time.Now()
	c, err := examined(ctx, "")
	testutil.Must(t, err)
	t.Logf("%d nodes examined in %.1f s", len(c.Nodes), time.Since(start).Seconds())
	if !c.OK() || len(c.Nodes) != len(nodes) {
		t.Errorf("all is well, and yet: %+v", c)
	}
	needsNodes(t)
	broken := nodes[0].name
	foreign := fmt.Sprintf("%s dev lo metric 5", nodes[1].subnets[0])
	t.Cleanup(func() { _, _ = onNode(context.Background(), broken, "ip route del "+foreign+" 2>/dev/null") })
	_, err = onNode(ctx, broken, "ip route add "+foreign)
	testutil.Must(t, err)
	c, err = examined(ctx, "foreign-routes")
	testutil.Must(t, err)
	for i := range c.Nodes {
		if n := &c.Nodes[i]; n.OK() == (n.Node == broken) || !n.Examined {
			t.Errorf("%s has the foreign route: %+v", broken, n)
		}
	}
	_, err = onNode(ctx, broken, "ip route del "+foreign)
	testutil.Must(t, err)
}

// examined runs one check or all; the exit code has to match the result.
func examined(ctx context.Context, check string) (*diagnosis.Cluster, error) {
	args := []string{"plainroute", "doctor", "--output=json"}
	if check != "" {
		args = append(args, "--check="+check)
	}
	text, failure := kubectl(ctx, args...)
	c := &diagnosis.Cluster{}
	if err := json.Unmarshal([]byte(text), c); err != nil {
		return nil, errors.Join(failure, err)
	}
	if (failure == nil) != c.OK() {
		return nil, fmt.Errorf("it ends with %w, and OK is %t", failure, c.OK())
	}
	return c, nil
}
