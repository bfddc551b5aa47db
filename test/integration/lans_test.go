package integration

import (
	"context"
	"net/netip"
	"syscall"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// nodesOnLANs makes two nodes on each of two LANs with a router between them, whose agents have more flags, and a pod on
// each.
func nodesOnLANs(ctx context.Context, t *testing.T, f *fixture, args ...string) (nodes []*nodelab.Node, pods []*nodelab.Pod) {
	t.Helper()
	nodes = machinesOnLANs(t, f)
	return nodes, join(ctx, t, nodes, args...)
}

// machinesOnLANs makes the machines of two nodes on each of two LANs.
func machinesOnLANs(t *testing.T, f *fixture) (nodes []*nodelab.Node) {
	t.Helper()
	testutil.Must(t, f.second())
	for _, lan := range []int{0, 0, 1, 1} {
		f.last++
		node, err := f.NewNodeOn(lan, f.last)
		testutil.Must(t, err)
		t.Cleanup(func() { f.remove(t, node) })
		nodes = append(nodes, node)
	}
	return nodes
}

// join makes Nodes of machines, starts their agents with more flags, and adds a pod to each.
func join(ctx context.Context, t *testing.T, nodes []*nodelab.Node, args ...string) (pods []*nodelab.Pod) {
	t.Helper()
	for _, node := range nodes {
		testutil.Must(t, node.Register(ctx))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: args}))
	}
	for _, node := range nodes {
		testutil.Must(t, node.WaitReady(ctx))
		pods = append(pods, addPod(ctx, t, node, "a"))
	}
	return pods
}

// remove takes a node off its LAN with its pods, and waits until the others have no route to it. All namespaces of a
// machine share the kernel's neighbor table, of 1,024 entries a family, and many nodes at once fill it.
func (f *fixture) remove(t *testing.T, node *nodelab.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := node.Retire(ctx); err != nil {
		t.Error(err)
	}
	for _, peer := range f.nodes {
		if err := peer.AwaitNoRoute(ctx, node.Subnets...); err != nil {
			t.Error(err)
		}
	}
}

// routed waits until nodes have a route of ours to each other's pod subnets, by a device to those on their own LAN and by
// another one to the others.
func routed(ctx context.Context, t *testing.T, nodes []*nodelab.Node) {
	t.Helper()
	for _, node := range nodes {
		for _, peer := range nodes {
			if peer != node {
				testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
			}
		}
	}
}

// reachAll is reachPods, and pods get answers from all nodes.
func reachAll(ctx context.Context, t *testing.T, nodes []*nodelab.Node, pods []*nodelab.Pod) {
	t.Helper()
	reachPods(ctx, t, nodes, pods)
	for _, from := range pods {
		for _, node := range nodes {
			for _, address := range node.Addrs() {
				if _, err := from.TCP(ctx, address); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// reachPods fails the test unless pods of all nodes reach each other without NAT, and nodes get answers from all
// pods.
func reachPods(ctx context.Context, t *testing.T, nodes []*nodelab.Node, pods []*nodelab.Pod) {
	t.Helper()
	for i, from := range pods {
		for _, to := range pods {
			if from != to {
				reachesUnchanged(ctx, t, from.Host, to.Host)
			}
		}
		for _, node := range nodes {
			for _, address := range from.Addrs() {
				if _, err := node.TCP(ctx, address); err != nil {
					t.Errorf("%s to the pod of node %d: %v", node.Name, i, err)
				}
				if _, err := node.UDP(ctx, address); err != nil {
					t.Errorf("%s to the pod of node %d: %v", node.Name, i, err)
				}
			}
		}
	}
}

// onTunnel reports how many of a node's routes to peers lead into a tunnel.
func onTunnel(t *testing.T, node *nodelab.Node, peers []*nodelab.Node) (n int) {
	t.Helper()
	for _, subnet := range subnetsOf(peers...) {
		route, err := node.RouteDevice(subnet)
		testutil.Must(t, err)
		if route == topology.Tunnel4 || route == topology.Tunnel6 {
			n++
		}
	}
	return n
}

func TestPodsBehindARouterReachEachOtherByTunnels(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	for setting, tunnels := range map[string]int{"cross-subnet": 4, "always": 6} {
		t.Run(setting, func(t *testing.T) {
			nodes, pods := nodesOnLANs(ctx, t, f, "--encapsulation="+setting)
			routed(ctx, t, nodes)
			reachAll(ctx, t, nodes, pods)
			for i, node := range nodes {
				peers := append(append([]*nodelab.Node(nil), nodes[:i]...), nodes[i+1:]...)
				if got := onTunnel(t, node, peers); got != tunnels {
					t.Errorf("%s has %d routes by a tunnel; want %d", node.Name, got, tunnels)
				}
			}
			for _, address := range f.Outside.Addrs() {
				reaches(ctx, t, pods[2].Host, address, nodes[2].Addr(address))
			}
		})
	}
}

// Each node's agent in turn gets the next setting, while packets flow: none is lost.
func TestSettingChangesUnderTraffic(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 3*limit)
	nodes, pods := nodesOnLANs(ctx, t, f, "--encapsulation=never")
	onLink := flowsBothWays(t, pods[0], pods[1])
	change := func(setting string) {
		for _, node := range nodes {
			testutil.Must(t, node.StopAgent(syscall.SIGTERM))
			testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--encapsulation=" + setting}}))
			testutil.Must(t, node.WaitReady(ctx))
			testutil.Must(t, onLink[0].Run(ctx, flowTime))
		}
	}
	change("cross-subnet")
	routed(ctx, t, nodes)
	apart := flowsBothWays(t, pods[0], pods[2]) // which never have a path with the setting never
	change("always")
	change("cross-subnet")
	stopFlows(t, apart)
	change("never")
	stopFlows(t, onLink)
}

// A node gets a link to the other LAN, then its InternalIPs there, and loses the former link, while packets flow: none is
// lost, and the peers' routes follow.
func TestNodeChangesItsLANUnderTraffic(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 3*limit)
	nodes, pods := nodesOnLANs(ctx, t, f, "--encapsulation=cross-subnet")
	routed(ctx, t, nodes)
	moving, peer := nodes[2], nodes[0]
	flows := append(flowsBothWays(t, pods[2], pods[0]), flowsBothWays(t, pods[2], pods[3])...)
	v4, v6, err := f.AddLink(moving.Host, 0, "eth1", moving.Index)
	testutil.Must(t, err)
	former := moving.Addrs()
	for _, addrs := range [][]netip.Addr{{former[0], former[1], v4, v6}, {v4, v6}} {
		testutil.Must(t, moving.SetAddresses(ctx, addrs...))
		testutil.AwaitTrue(t, peer.Name+" reaches "+moving.Name+" on link", func() bool { return onTunnel(t, peer, []*nodelab.Node{moving}) == 0 })
		testutil.Must(t, flows[0].Run(ctx, flowTime))
	}
	testutil.AwaitTrue(t, nodes[3].Name+" reaches "+moving.Name+" by a tunnel", func() bool { return onTunnel(t, nodes[3], []*nodelab.Node{moving}) == 2 })
	testutil.Must(t, flows[0].Run(ctx, flowTime))
	stopFlows(t, flows)
}

// nodeRanges are those of both LANs, without which pods' packets to nodes of the other LAN are masqueraded.
const nodeRanges = "--node-cidr=192.168.0.0/16,fd00:192:168::/48"

// A router with routes to all pod subnets is the gateway of nodes on both LANs.
func TestRouterKnowsAllPodSubnets(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 3*limit)
	nodes, pods := nodesOnLANs(ctx, t, f, "--off-link=gateway", nodeRanges)
	gate, err := inject.NewGate(f.Cluster, 7999)
	testutil.Must(t, err)
	testutil.Must(t, gate.Open())
	t.Cleanup(gate.Shut)
	start := func() *nodelab.Router {
		router, err := f.StartRouter("--kubeconfig", gate.Kubeconfig())
		testutil.Must(t, err)
		t.Cleanup(func() { testutil.Must(t, router.Stop(syscall.SIGKILL)) })
		return router
	}
	router := start()
	testutil.Must(t, f.LAN.AwaitRoute(ctx, subnetsOf(nodes...)...))
	routed(ctx, t, nodes)
	reachAll(ctx, t, nodes, pods)
	for _, pod := range pods {
		for _, node := range nodes {
			reachesUnchanged(ctx, t, pod.Host, node.Host)
		}
	}
	machine, err := f.NewMachineOn(1, "machine", 99)
	testutil.Must(t, err)
	testutil.Must(t, machine.Serve())
	t.Cleanup(func() { testutil.Must(t, f.Remove(machine)) })
	for _, pod := range pods {
		reachesUnchanged(ctx, t, machine, pod.Host)
	}
	flows := append(flowsBothWays(t, pods[0], pods[2]), flowsBothWays(t, pods[1], pods[3])...)
	gate.Shut()
	testutil.Must(t, flows[0].Run(ctx, flowTime))
	// As by an upgrade and by a crash, and started again without the API server.
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		testutil.Must(t, router.Stop(end))
		testutil.Must(t, flows[0].Run(ctx, flowTime))
		router = start()
		testutil.Must(t, flows[0].Run(ctx, flowTime))
		testutil.Must(t, gate.Open())
		testutil.Must(t, flows[0].Run(ctx, flowTime))
		gate.Shut()
	}
	stopFlows(t, flows)
}

// The network has routes to all pod subnets by itself, so the agents add none for peers that are not on link.
func TestUnderlayRoutesPodSubnets(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	nodes, pods := nodesOnLANs(ctx, t, f, "--off-link=underlay", nodeRanges)
	for _, node := range nodes {
		for _, subnet := range node.Subnets {
			testutil.Must(t, f.LAN.AddStaticRoute(subnet, node.Addr(subnet.Addr())))
			t.Cleanup(func() { testutil.Must(t, f.LAN.DeleteStaticRoute(subnet, node.Addr(subnet.Addr()))) })
		}
	}
	testutil.Must(t, nodes[0].AwaitRoute(ctx, nodes[1].Subnets...))
	for _, from := range pods {
		for _, to := range pods {
			if from != to {
				reachesUnchanged(ctx, t, from.Host, to.Host)
			}
		}
		for _, node := range nodes {
			reachesUnchanged(ctx, t, from.Host, node.Host)
		}
	}
}
