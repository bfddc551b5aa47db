package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/connectivity"
	"github.com/plainroute/plainroute/test/testutil"
)

// check runs the product's connectivity test as a user does: every probe arrives; then a node has a
// foreign route, and the lost probes are reported; then the test is interrupted. It leaves nothing.
func (s *story) check(ctx context.Context, t *testing.T) {
	plugin(t)
	start := time.Now()
	result, err := checked(ctx)
	testutil.Must(t, err)
	if !result.OK() || result.Probes < 50 || len(result.Skipped) > 1 {
		t.Errorf("%+v: want no faults, and names tried too", result)
	}
	t.Logf("%d probes on %d nodes, deployed and removed in %.1f s", result.Probes, len(result.Nodes), time.Since(start).Seconds())
	if _, isHelm := s.product.(helm); !isHelm {
		return // once is enough for the rest, which takes a while
	}
	s.interrupted(ctx, t)
	needsNodes(t)
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	from, to := nodes[0].name, nodes[1]
	foreign := fmt.Sprintf("blackhole %s metric 5", to.subnets[0])
	t.Cleanup(func() { _, _ = onNode(context.Background(), from, "ip route del "+foreign+" 2>/dev/null") })
	_, err = onNode(ctx, from, "ip route add "+foreign)
	testutil.Must(t, err)
	result, err = checked(ctx)
	testutil.Must(t, err)
	if !slices.ContainsFunc(result.Failed, func(f connectivity.Failure) bool {
		return f.From == from && f.Target == to.name && f.Kind == connectivity.TCP
	}) {
		t.Errorf("%+v: want a fault from %s to %s", result, from, to.name)
	}
	s.noCheckLeft(ctx, t)
}

// checked runs the test, whose exit code goes with its result.
func checked(ctx context.Context) (*connectivity.Result, error) {
	text, failure := kubectl(ctx, "plainroute", "check", "--output=json")
	result := &connectivity.Result{}
	if err := json.Unmarshal([]byte(text), result); err != nil {
		return nil, errors.Join(failure, err)
	}
	if (failure == nil) != result.OK() {
		return nil, fmt.Errorf("it ends with %w, and OK is %t", failure, result.OK())
	}
	return result, nil
}

// interrupted stops it with Ctrl-C once there is something to remove.
func (s *story) interrupted(ctx context.Context, t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(*root, "bin/plainroute"), "check")
	testutil.Must(t, cmd.Start())
	await(ctx, t, "the test's namespace", func(ctx context.Context) error {
		left, err := connectivity.Leftovers(ctx, s.cluster.tested)
		if err == nil && len(left) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	testutil.Must(t, cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); err == nil {
		t.Error("the interrupted test reports that all is well")
	}
	s.noCheckLeft(ctx, t)
}

func (s *story) noCheckLeft(ctx context.Context, t *testing.T) {
	t.Helper()
	left, err := connectivity.Leftovers(ctx, s.cluster.tested)
	testutil.Must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
