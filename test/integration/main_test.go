// Package integration runs plainroute's agents on the cluster of package nodelab and asserts what
// `make demo` shows, and more: what happens when things are missing, refused, killed or taken away.
//
// Everything runs in a sandbox, without root if users may make namespaces. Where none can be made, or
// binaries are missing, every test is skipped with the reason.
package integration

import (
	"context"
	"os"
	"sync"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// limit bounds a single wait.
const limit = testutil.Limit

func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nodelab.DefaultConfig().Check)) }

// shared is the one cluster of all tests, made by the first that needs it.
var shared = sync.OnceValues(build)

// fixture is three nodes with two pods each, which stay as they are, so that each test finds them working. A test that
// breaks something makes nodes of its own.
type fixture struct {
	*nodelab.Cluster
	nodes   []*nodelab.Node
	pods    []*nodelab.Pod
	foreign []*foreignRoutes
	// second makes the second LAN, for the tests that need it.
	second func() error
	// last is the number of the node made last: each test's nodes are new, also when it runs again (-count).
	last int
}

func build() (*fixture, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	c, err := nodelab.Start(ctx, nodelab.DefaultConfig())
	if err != nil {
		return nil, err
	}
	f := &fixture{Cluster: c, second: sync.OnceValue(c.AddSecondLAN)}
	for range 3 {
		if err := f.addNode(ctx); err != nil {
			return nil, err
		}
	}
	for _, node := range f.nodes {
		if err := f.addPods(ctx, node); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *fixture) newNode() (*nodelab.Node, error) {
	f.last++
	return f.NewNode(f.last)
}

// addNode makes a node that has foreign routes before its agent first runs.
func (f *fixture) addNode(ctx context.Context) error {
	node, err := f.newNode()
	if err != nil {
		return err
	}
	foreign, err := addForeignRoutes(node)
	if err != nil {
		return err
	}
	if err := node.Register(ctx); err != nil {
		return err
	}
	f.nodes = append(f.nodes, node)
	f.foreign = append(f.foreign, foreign)
	return node.StartAgent(nodelab.AgentOptions{})
}

func (f *fixture) addPods(ctx context.Context, node *nodelab.Node) error {
	if err := node.WaitReady(ctx); err != nil {
		return err
	}
	for _, peer := range f.nodes {
		if peer == node {
			continue
		}
		if err := node.AwaitRoute(ctx, peer.Subnets...); err != nil {
			return err
		}
	}
	for _, name := range []string{"a", "b"} {
		pod, err := node.AddPod(ctx, name)
		if err != nil {
			return err
		}
		f.pods = append(f.pods, pod)
	}
	return nil
}

// setup gives a test the cluster, and checks after it that no foreign route was changed meanwhile.
func setup(t *testing.T) *fixture {
	t.Helper()
	testutil.NeedSandbox(t)
	f, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, foreign := range f.foreign {
			foreign.check(t)
		}
		if t.Failed() {
			f.showLogs(t)
		}
	})
	return f
}

// showLogs prints the ends of the logs of agents that run, among which the reason for a failure is likely to be.
func (f *fixture) showLogs(t *testing.T) {
	for _, node := range f.Nodes() {
		if node.AgentRunning() {
			t.Logf("end of the log of %s's agent:\n%s", node.Name, node.LogTail(15))
		}
	}
}

// node makes a node for one test, which is taken out of the cluster with it.
func (f *fixture) node(t *testing.T) *nodelab.Node {
	t.Helper()
	node, err := f.newNode()
	testutil.Must(t, err)
	t.Cleanup(func() { f.retire(t, node) })
	return node
}

// retire stops a node's agent and deletes its Node object, where they are, and waits until the others know: the next
// test may count changes.
func (f *fixture) retire(t *testing.T, node *nodelab.Node) {
	if node.AgentRunning() {
		if err := node.StopAgent(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if err := node.Deregister(context.Background()); err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, peer := range f.nodes {
		if err := peer.AwaitNoRoute(ctx, node.Subnets...); err != nil {
			t.Error(err)
		}
	}
}

// stays fails the test if a route of ours came, went or was replaced since the watch was last looked at.
func stays(t *testing.T, watch *netlab.RouteWatch) {
	t.Helper()
	events := watch.Drain()
	if len(events) > 0 {
		t.Errorf("%d changes of routes; want none; the first: %+v", len(events), events[:min(3, len(events))])
	}
}
