package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/test/testutil"
)

// cannotAdd is the exit code of `$E2E_NODES add` on a cluster that can't grow.
const cannotAdd = 3

// join adds a node to a cluster that has been at work for a while.
func (s *story) join(ctx context.Context, t *testing.T) {
	needsNodes(t)
	start := time.Now()
	name, err := output(ctx, "", append(nodeCommand(), "add")...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == cannotAdd {
		t.Skip("no node can be added to a cluster of this kind")
	}
	testutil.Must(t, err)
	name = strings.TrimSpace(name)
	s.awaitNode(ctx, t, name)
	t.Logf("a new node is Ready after %.1f s", time.Since(start).Seconds())
	s.awaitPodsOn(ctx, t, name, nil)
}

// awaitNode waits until a node is Ready, and then finds all routes on it: they are there first.
func (s *story) awaitNode(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	await(ctx, t, "node "+name+" to be ready", func(ctx context.Context) error {
		one, err := s.cluster.node(ctx, name)
		if err != nil {
			return err
		}
		return one.isReady()
	})
	testutil.Must(t, s.hasRoutes(ctx, name))
}

// hasRoutes is nil if a node has routes to all subnets of each other node that is Ready.
func (s *story) hasRoutes(ctx context.Context, name string) error {
	nodes, err := s.cluster.nodes(ctx)
	if err != nil {
		return err
	}
	routes, err := ourRoutes(ctx, name)
	if err != nil {
		return err
	}
	var missing []error
	for _, peer := range nodes {
		if peer.name == name || peer.isReady() != nil {
			continue
		}
		for _, subnet := range peer.subnets {
			if !hasRoute(routes, subnet) {
				missing = append(missing, fmt.Errorf("node %s has no route to %s of node %s, only:\n%s", name, subnet, peer.name, routes))
			}
		}
	}
	return errors.Join(missing...)
}

func hasRoute(routes string, to netip.Prefix) bool { return routeTo(routes, to) != "" }

// routeTo is the line of the route to a subnet, or none.
func routeTo(routes string, to netip.Prefix) string {
	for line := range strings.Lines(routes) {
		if strings.HasPrefix(line, to.String()+" via ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// awaitPodsOn waits for a node's pods, in other containers than old ones.
func (s *story) awaitPodsOn(ctx context.Context, t *testing.T, name string, old []pod) {
	t.Helper()
	await(ctx, t, "the pods of node "+name, func(ctx context.Context) error {
		pods, err := s.cluster.pods(ctx)
		if err != nil {
			return err
		}
		pods = on(pods, name)
		if len(pods) != 3 {
			return fmt.Errorf("there are %d: want 3", len(pods))
		}
		return areNew(pods, old)
	})
}

// areNew is nil if all pods are ready, in other containers than old ones.
func areNew(pods, old []pod) error {
	for _, one := range pods {
		if !one.ready || one.container == "" {
			return fmt.Errorf("pod %s on node %s is not ready", one.name, one.node)
		}
		if slices.ContainsFunc(old, func(before pod) bool { return before.container == one.container }) {
			return fmt.Errorf("pod %s on node %s still shows its former container", one.name, one.node)
		}
	}
	return nil
}

// replace deletes a Node, whose routes go everywhere, and lets its kubelet register again, with another pod subnet.
func (s *story) replace(ctx context.Context, t *testing.T) {
	needsNodes(t)
	now := s.scene(ctx, t)
	leaving, observer := now.nodes[len(now.nodes)-1], now.nodes[0]
	testutil.Must(t, s.cluster.api.CoreV1().Nodes().Delete(ctx, leaving.name, metav1.DeleteOptions{}))
	start := time.Now()
	await(ctx, t, "the routes of the Node that is gone to go", func(ctx context.Context) error {
		routes, err := ourRoutes(ctx, observer.name)
		for _, subnet := range leaving.subnets {
			if err == nil && hasRoute(routes, subnet) {
				err = fmt.Errorf("node %s still has a route to %s", observer.name, subnet)
			}
		}
		return err
	})
	t.Logf("routes to the Node that is gone went after %.1f s", time.Since(start).Seconds())
	// A kubelet registers when it starts, and only then.
	testutil.Must(t, rebootNode(ctx, leaving.name))
	await(ctx, t, "the Node to be registered", func(ctx context.Context) error {
		one, err := s.cluster.node(ctx, leaving.name)
		if apierrors.IsNotFound(err) || err == nil && len(one.subnets) == 0 {
			return fmt.Errorf("node %s has no subnet yet", leaving.name)
		}
		return err
	})
	back, err := s.cluster.node(ctx, leaving.name)
	testutil.Must(t, err)
	if slices.ContainsFunc(back.subnets, func(p netip.Prefix) bool { return slices.Contains(leaving.subnets, p) }) {
		t.Errorf("the Node was given %s again: want other subnets than %s, or this shows nothing", back.subnets, leaving.subnets)
	}
	s.awaitNode(ctx, t, leaving.name)
	s.awaitPodsOn(ctx, t, leaving.name, on(now.pods, leaving.name))
	await(ctx, t, "the routes of the Node that is back", func(ctx context.Context) error { return s.hasRoutes(ctx, observer.name) })
	t.Logf("deleted, and back with %s instead of %s after %.1f s", back.subnets, leaving.subnets, time.Since(start).Seconds())
}

// reachAgain checks all pairs once more, with the new and the changed nodes.
func (s *story) reachAgain(ctx context.Context, t *testing.T) {
	s.awaitPods(ctx, t, nil)
	s.addresses(ctx, t)
	s.reach(ctx, t)
	s.names(ctx, t)
}
