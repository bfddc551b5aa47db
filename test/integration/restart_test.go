package integration

import (
	"context"
	"syscall"
	"testing"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// crossFlows pings between a pod of node1 and one of node2, both ways and over both families, and from the former to
// the host outside, whose packets depend on the masquerade rules too.
func crossFlows(t *testing.T, f *fixture) []*netlab.Flow {
	t.Helper()
	first, second := f.pods[0], f.pods[2]
	var flows []*netlab.Flow
	pairs := [][2]*netlab.Host{{first.Host, second.Host}, {second.Host, first.Host}, {first.Host, f.Outside}}
	for _, pair := range pairs {
		for _, address := range pair[1].Addrs() {
			flow, err := pair[0].StartFlow(address)
			testutil.Must(t, err)
			flows = append(flows, flow)
		}
	}
	return flows
}

// stopFlows fails the test for every packet lost.
func stopFlows(t *testing.T, flows []*netlab.Flow) {
	t.Helper()
	for _, flow := range flows {
		count := flow.Stop()
		t.Log(count)
		if count.Lost() != 0 || count.Sent == 0 {
			t.Errorf("%s: want none lost", count)
		}
	}
}

// flowTime is how many packets of a flow show what something did to it: half a second of them.
const flowTime = 50

// restart ends the agent with a signal, leaves it away for a while and starts it again, under a flow of its node's.
func restart(ctx context.Context, t *testing.T, node *nodelab.Node, flow *netlab.Flow, signal syscall.Signal) {
	t.Helper()
	testutil.Must(t, node.StopAgent(signal))
	testutil.Must(t, flow.Run(ctx, flowTime))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	testutil.Must(t, node.WaitReady(ctx))
	testutil.Must(t, flow.Run(ctx, flowTime))
}

func TestKilledAgentLosesNoPacket(t *testing.T) {
	f := setup(t)
	flows := crossFlows(t, f)
	restart(testutil.Within(t, limit), t, f.nodes[0], flows[0], syscall.SIGKILL)
	restart(testutil.Within(t, limit), t, f.nodes[1], flows[0], syscall.SIGKILL)
	stopFlows(t, flows)
}

func TestRestartedAgentLosesNoPacket(t *testing.T) {
	f := setup(t)
	flows := crossFlows(t, f)
	restart(testutil.Within(t, limit), t, f.nodes[0], flows[0], syscall.SIGTERM)
	restart(testutil.Within(t, limit), t, f.nodes[1], flows[0], syscall.SIGTERM)
	stopFlows(t, flows)
}

// A restart finds the kernel as it should be, and changes nothing: not a route is so much as replaced.
func TestRestartChangesNothing(t *testing.T) {
	f := setup(t)
	node, flows := f.nodes[1], crossFlows(t, f)
	watch, err := node.WatchRoutes()
	testutil.Must(t, err)
	defer watch.Close()
	restart(testutil.Within(t, limit), t, node, flows[0], syscall.SIGTERM)
	stays(t, watch)
	stopFlows(t, flows)
}

// An agent that starts catches up with all changes since it was stopped.
func TestRestartCatchesUp(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node, comes, goes := f.nodes[0], f.node(t), f.node(t)
	testutil.Must(t, goes.Register(ctx))
	testutil.Must(t, node.AwaitRoute(ctx, goes.Subnets...))
	testutil.Must(t, node.StopAgent(syscall.SIGKILL))
	testutil.Must(t, goes.Deregister(ctx))
	testutil.Must(t, comes.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	testutil.Must(t, node.AwaitRoute(ctx, comes.Subnets...))
	testutil.Must(t, node.AwaitNoRoute(ctx, goes.Subnets...))
	testutil.Must(t, node.WaitReady(ctx))
}

// A reboot leaves the CNI folder, which is on disk, and nothing of /run or of the kernel. The old config must not make
// the node Ready before the agent has run.
func TestReboot(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	testutil.Must(t, node.WaitReady(ctx))
	testutil.Must(t, node.Reboot())
	hasNoConfig(t, node)
	routes, err := node.Routes(ctx)
	testutil.Must(t, err)
	if routes != "" {
		t.Fatalf("routes outlived a reboot:\n%s", routes)
	}
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	comesAlive(t, node)
	pod, err := node.AddPod(ctx, "a")
	testutil.Must(t, err)
	knownToAll(ctx, t, f, node)
	reachesUnchanged(ctx, t, pod.Host, f.pods[0].Host)
}
