package integration

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// report logs how long each node took, and fails the test where it was over most.
func report(t *testing.T, what string, delays []nodelab.Delay, most time.Duration) {
	t.Helper()
	for _, delay := range delays {
		t.Logf("%s: %s after %s", delay.Node, what, delay.Took)
		if delay.Took > most {
			t.Errorf("%s: %s after %s; want at most %s", delay.Node, what, delay.Took, most)
		}
	}
}

// hasNoConfig checks that a runtime on the node finds nothing that makes it Ready.
func hasNoConfig(t *testing.T, node *nodelab.Node) {
	t.Helper()
	if _, err := node.CNIConfig(); !errors.Is(err, nodelab.ErrNoCNIConfig) {
		t.Errorf("%s has a CNI config (or fails otherwise): %v", node.Name, err)
	}
}

func TestNodeJoinsAndLeaves(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	delays, err := nodelab.AwaitRoutes(ctx, f.nodes, true, node.Subnets, func() error { return node.Register(ctx) })
	testutil.Must(t, err)
	report(t, "routes to the new node", delays, 2*time.Second)
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	testutil.Must(t, node.WaitReady(ctx))
	for _, peer := range f.nodes {
		testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
	}
	refusesUnknownPods(ctx, t, f.pods[0], node)

	pod, err := node.AddPod(ctx, "a")
	testutil.Must(t, err)
	reachesUnchanged(ctx, t, pod.Host, f.pods[0].Host)
	reachesUnchanged(ctx, t, f.pods[0].Host, pod.Host)
	reaches(ctx, t, pod.Host, f.Outside.V4, node.V4)
	reaches(ctx, t, pod.Host, f.Outside.V6, node.V6)

	delays, err = nodelab.AwaitRoutes(ctx, f.nodes, false, node.Subnets, func() error { return node.Deregister(ctx) })
	testutil.Must(t, err)
	report(t, "routes to the deleted node gone", delays, 2*time.Second)
}

// refusesUnknownPods checks the node's `unreachable` route: without it, a packet for a pod that doesn't exist would
// leave over the default route and come back, until its hops are used up. While the bridge is there it asks three times,
// a second apart, who has the address (arp(7), mcast_solicit). TCP may send a second time, after 1 s, where the kernel's
// limit on ICMP has held the first answer back.
func refusesUnknownPods(ctx context.Context, t *testing.T, from *nodelab.Pod, node *nodelab.Node) {
	t.Helper()
	routes, err := node.Routes(ctx)
	testutil.Must(t, err)
	for _, subnet := range node.Subnets {
		if !strings.Contains(routes, "unreachable "+subnet.String()) {
			t.Errorf("%s has no unreachable route to its own subnet %s:\n%s", node.Name, subnet, routes)
		}
		unknown := subnet.Addr().Next().Next().Next()
		start := time.Now()
		_, err := from.TCP(ctx, unknown)
		if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("connecting to %s, which is unused: %v; want it to be unreachable", unknown, err)
		}
		if took := time.Since(start); took > 5500*time.Millisecond {
			t.Errorf("being refused by %s took %s", unknown, took)
		}
	}
}

func TestOwnNodeMissing(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	waitNotReady(t, node, "NodeMissing")
	hasNoConfig(t, node)
	for _, peer := range f.nodes {
		testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
	}
	testutil.Must(t, node.Register(ctx))
	comesAlive(t, node)
}

func TestOwnNodeWithoutSubnetsYet(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.RegisterWithoutSubnets(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	waitNotReady(t, node, "PodCIDRMissing")
	hasNoConfig(t, node)
	for _, peer := range f.nodes {
		testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
	}
	testutil.Must(t, node.AssignSubnets(ctx))
	comesAlive(t, node)
	for _, peer := range f.nodes {
		testutil.Must(t, peer.AwaitRoute(ctx, node.Subnets...))
	}
}

// comesAlive waits until the node is ready and logs how long that took.
func comesAlive(t *testing.T, node *nodelab.Node) {
	t.Helper()
	start := time.Now()
	testutil.Must(t, node.WaitReady(testutil.Within(t, limit)))
	t.Logf("%s is ready after %s", node.Name, time.Since(start).Round(time.Millisecond))
	if _, err := node.CNIConfig(); err != nil {
		t.Errorf("%s is ready without a CNI config: %v", node.Name, err)
	}
}

// knownToAll waits until there are routes both ways between nodes, and from each to the nodes that
// stay and back: a node's readiness does not cover the routes of other nodes.
func knownToAll(ctx context.Context, t *testing.T, f *fixture, nodes ...*nodelab.Node) {
	t.Helper()
	all := slices.Concat(f.nodes, nodes)
	for _, node := range all {
		testutil.Must(t, node.AwaitRoute(ctx, subnetsOf(all...)...))
	}
}

// subnetsOf lists the pod subnets of nodes.
func subnetsOf(nodes ...*nodelab.Node) []netip.Prefix {
	var all []netip.Prefix
	for _, node := range nodes {
		all = append(all, node.Subnets...)
	}
	return all
}
