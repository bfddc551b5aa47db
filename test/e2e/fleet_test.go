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
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/testutil"
)

// fleetStatus asks for the whole cluster's status as a user does, `kubectl plainroute status`: all
// is well, then a node has a foreign route, then an agent hangs, and each time that node's row
// shows it.
func (s *story) fleetStatus(ctx context.Context, t *testing.T) {
	plugin(t)
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	s.seen(ctx, t, "all to be well", allWell(len(nodes)))
	needsNodes(t)
	broken, peer := nodes[0].name, nodes[1]
	foreign := fmt.Sprintf("%s dev lo metric 5", peer.subnets[0])
	t.Cleanup(func() { _, _ = onNode(context.Background(), broken, "ip route del "+foreign+" 2>/dev/null") })
	_, err = onNode(ctx, broken, "ip route add "+foreign)
	testutil.Must(t, err)
	s.seen(ctx, t, "the foreign route to be seen", func(c *fleet.Cluster) error { return conflicting(c, broken, peer.name) })
	_, err = onNode(ctx, broken, "ip route del "+foreign)
	testutil.Must(t, err)
	s.seen(ctx, t, "all to be well again", allWell(len(nodes)))

	t.Cleanup(func() { _, _ = onNode(context.Background(), broken, "kill -CONT $(pidof plainroute)") })
	_, err = onNode(ctx, broken, "kill -STOP $(pidof plainroute)")
	testutil.Must(t, err)
	s.seen(ctx, t, "the agent that hangs to be seen", func(c *fleet.Cluster) error { return silent(c, broken) })
	_, err = onNode(ctx, broken, "kill -CONT $(pidof plainroute)")
	testutil.Must(t, err)
	s.seen(ctx, t, "all to be well once it goes on", allWell(len(nodes)))
}

// plugin puts the program where kubectl looks for plugins.
func plugin(t *testing.T) {
	t.Helper()
	folder := t.TempDir()
	testutil.Must(t, os.Symlink(filepath.Join(*root, "bin/plainroute"), filepath.Join(folder, "kubectl-plainroute")))
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
}

// seen asks until the answer is right, and whether the exit code goes with it.
func (s *story) seen(ctx context.Context, t *testing.T, what string, verify func(*fleet.Cluster) error) {
	t.Helper()
	await(ctx, t, what, func(ctx context.Context) error {
		start := time.Now()
		text, failure := kubectl(ctx, "plainroute", "status", "--output=json", "--timeout=2s")
		took := time.Since(start)
		var c fleet.Cluster
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			return errors.Join(failure, err)
		}
		if err := verify(&c); err != nil {
			return fmt.Errorf("%w, in:\n%s", err, shown(&c))
		}
		var exit *exec.ExitError
		if code := errors.As(failure, &exit); code == c.OK() || code && exit.ExitCode() != 1 {
			return fmt.Errorf("it ends with %w, and OK is %t", failure, c.OK())
		}
		t.Logf("%s: seen in %.2f s (the goal for three nodes is 1 s)", what, took.Seconds())
		return nil
	})
}

func shown(c *fleet.Cluster) string {
	var text strings.Builder
	if err := c.Print(&text, fleet.Format{Output: "wide"}); err != nil {
		return err.Error()
	}
	return text.String()
}

func allWell(nodes int) func(*fleet.Cluster) error {
	return func(c *fleet.Cluster) error {
		if !c.OK() || len(c.Nodes) != nodes {
			return errors.New("not all is well")
		}
		for from := range c.Nodes {
			for to := range c.Nodes {
				if cell := c.Cell(from, to); from != to && cell != fleet.Routed {
					return fmt.Errorf("%s to %s: %s", c.Nodes[from].Node, c.Nodes[to].Node, cell)
				}
			}
		}
		return nil
	}
}

func conflicting(c *fleet.Cluster, from, to string) error {
	index := func(name string) int {
		return slices.IndexFunc(c.Nodes, func(r fleet.Row) bool { return r.Node == name })
	}
	switch {
	case c.Cell(index(from), index(to)) != fleet.Conflict:
		return fmt.Errorf("from %s to %s there is no conflict", from, to)
	case c.Cell(index(to), index(from)) != fleet.Routed:
		return fmt.Errorf("from %s to %s there is no route", to, from)
	case !slices.ContainsFunc(c.Problems, func(g problem.Group) bool { return g.Reason == problem.Asymmetry && g.Nodes[0] == from }):
		return errors.New("the one-way route is not reported")
	}
	return nil
}

func silent(c *fleet.Cluster, name string) error {
	for _, row := range c.Nodes {
		if (row.Node == name) != (row.NoReport == problem.NoAnswer) {
			return fmt.Errorf("node %s: %q", row.Node, row.NoReport)
		}
	}
	return nil
}
