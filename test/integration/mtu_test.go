package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// setMTU sets the MTU of a device, until the test ends.
func setMTU(t *testing.T, n *netlab.Namespace, device string, bytes int) {
	t.Helper()
	before, err := n.MTU(device)
	testutil.Must(t, err)
	testutil.Must(t, n.SetMTU(device, bytes))
	t.Cleanup(func() { testutil.Must(t, n.SetMTU(device, before)) })
}

// takes fails the test unless packets of v4 and v6 bytes, and none larger, get from one host to another, and a large TCP
// transfer gets through in both directions.
func takes(t *testing.T, from, to *netlab.Host, v4, v6 int) {
	t.Helper()
	for _, address := range to.Addrs() {
		want := v4
		if address.Is6() {
			want = v6
		}
		if err := from.Transfer(testutil.Within(t, limit), to, address, 1<<20); err != nil {
			t.Error(err)
		}
		if got, err := from.PathMTU(testutil.Within(t, limit), address); err != nil || got != want {
			t.Errorf("from %s to %s: packets of %d bytes (%v); want %d", from.Name, address, got, err, want)
		}
	}
}

// hasMTUs waits until a node gives its tunnels, and its next pod, these MTUs.
func hasMTUs(t *testing.T, node *nodelab.Node, pods, v4, v6 int) {
	t.Helper()
	want := fmt.Sprintf("%d, %d, %d", pods, v4, v6)
	testutil.Await(t, func() error {
		list, err := node.CNIConfig()
		mtu4, err4 := node.MTU(topology.Tunnel4)
		mtu6, err6 := node.MTU(topology.Tunnel6)
		if err := errors.Join(err, err4, err6); err != nil {
			return err
		}
		if config := string(list.Plugins[0].Bytes); !strings.Contains(config, fmt.Sprintf(`"mtu":%d,`, pods)) || mtu4 != v4 || mtu6 != v6 {
			return fmt.Errorf("the tunnels of %s have %d and %d, its pods %s; want %s", node.Name, mtu4, mtu6, config, want)
		}
		return nil
	})
}

// doctorFinds fails the test unless the check path-mtu on a node prints all words.
func doctorFinds(ctx context.Context, t *testing.T, node *nodelab.Node, words ...string) {
	t.Helper()
	result, err := node.Plainroute(ctx, "doctor", "--check", "path-mtu")
	testutil.Must(t, err)
	for _, word := range words {
		if !strings.Contains(result.Stdout, word) {
			t.Errorf("%q is not in what doctor prints on %s:\n%s%s", word, node.Name, result.Stdout, result.Stderr)
		}
	}
}

// A router takes less than pods send, and sends ICMP errors that reach pods through their nodes, through a node that
// masquerades them, and through one that masquerades others.
func TestPathMTUByGateway(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 3*limit)
	nodes, pods := nodesOnLANs(ctx, t, f, "--off-link=gateway")
	router, err := f.StartRouter()
	testutil.Must(t, err)
	t.Cleanup(func() { testutil.Must(t, router.Stop(syscall.SIGKILL)) })
	testutil.Must(t, f.LAN.AwaitRoute(ctx, subnetsOf(nodes...)...))
	routed(ctx, t, nodes)
	setMTU(t, f.LAN, "lan1", 1400)
	setMTU(t, f.LAN, "wan0", 1350)
	takes(t, pods[0].Host, pods[2].Host, 1400, 1400)
	takes(t, pods[2].Host, pods[0].Host, 1500, 1500)
	takes(t, nodes[0].Host, pods[2].Host, 1400, 1400)
	takes(t, pods[0].Host, nodes[2].Host, 1400, 1400)
	takes(t, pods[0].Host, pods[1].Host, 1500, 1500)
	takes(t, pods[0].Host, f.Outside, 1350, 1350)
	doctorFinds(ctx, t, nodes[0], nodes[2].Name, "mtu 1400", "--mtu=1400")
}

// Pods that are older than the tunnels send larger packets than these take, and nodes answer them.
func TestPathMTUByTunnel(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 3*limit)
	nodes, older := nodesOnLANs(ctx, t, f)
	var newer []*nodelab.Pod
	for _, node := range nodes {
		testutil.Must(t, node.StopAgent(syscall.SIGTERM))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--encapsulation=cross-subnet", "--non-masquerade-cidr=192.168.0.0/16,fd00:192:168::/48"}}))
	}
	routed(ctx, t, nodes)
	for _, node := range nodes {
		hasMTUs(t, node, 1430, 1450, 1430) // before which the agent tries a port, and the bridge has its MTU for a moment
	}
	takes(t, older[0].Host, older[1].Host, 1500, 1500)
	takes(t, older[0].Host, older[2].Host, 1450, 1430)
	takes(t, older[2].Host, older[0].Host, 1450, 1430)
	takes(t, older[0].Host, nodes[2].Host, 1500, 1500)
	takes(t, nodes[0].Host, older[2].Host, 1450, 1430)
	for _, node := range nodes {
		newer = append(newer, addPod(ctx, t, node, "b"))
	}
	takes(t, newer[0].Host, newer[2].Host, 1430, 1430)
	takes(t, older[1].Host, newer[2].Host, 1430, 1430) // by an answer of the receiving node
	takes(t, older[0].Host, newer[1].Host, 1430, 1430)
	for _, address := range f.Outside.Addrs() {
		if got, err := f.Outside.AnswerMTU(testutil.Within(t, limit), address, newer[0].Host); err != nil || got != 1430 {
			t.Errorf("the host outside answers %s with packets of %d bytes (%v); want 1430", newer[0].Name, got, err)
		}
	}
	machine, err := f.NewMachineOn(0, "machine", 99)
	testutil.Must(t, err)
	testutil.Must(t, machine.Serve())
	t.Cleanup(func() { testutil.Must(t, f.Remove(machine)) })
	for _, subnet := range nodes[2].Subnets {
		testutil.Must(t, machine.AddStaticRoute(subnet, nodes[0].Addr(subnet.Addr())))
	}
	takes(t, machine, newer[2].Host, 1430, 1430) // by an answer of the node that it has as its gateway

	// The path between the tunnels' ends takes less: of IPv4 it carries fragments, of IPv6 it sends ICMP errors to the
	// node, which answers its pods.
	setMTU(t, f.LAN, "lan1", 1400)
	takes(t, newer[0].Host, newer[2].Host, 1430, 1330)
	takes(t, newer[2].Host, newer[0].Host, 1430, 1430)
	takes(t, older[1].Host, older[3].Host, 1430, 1330)
	takes(t, nodes[0].Host, newer[3].Host, 1430, 1330)
	doctorFinds(ctx, t, nodes[0], "2 warnings", nodes[2].Name, "mtu 1400", "of which the tunnel adds 50", "of which the tunnel adds 70", "--mtu=1330")
	for _, node := range nodes {
		testutil.Must(t, node.StopAgent(syscall.SIGTERM))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--encapsulation=cross-subnet", "--mtu=1330"}}))
	}
	for _, node := range nodes {
		hasMTUs(t, node, 1330, 1330, 1330)
	}
	testutil.AwaitTrue(t, "doctor finds nothing", func() bool {
		result, err := nodes[0].Plainroute(ctx, "doctor", "--check", "path-mtu")
		return err == nil && result.Code == 0
	})
}

// The MTU of a LAN is lowered and raised: tunnels and new pods follow, and those that are there are reached.
func TestMTUFollowsTheUplink(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 3*limit)
	nodes, older := nodesOnLANs(ctx, t, f, "--encapsulation=cross-subnet")
	routed(ctx, t, nodes)
	setAll := func(bytes int) {
		t.Helper()
		testutil.Must(t, f.LAN.SetMTU("lan1", bytes))
		for _, node := range nodes[2:] {
			testutil.Must(t, f.LAN.SetMTU("to-"+node.Name, bytes))
			testutil.Must(t, node.SetMTU(netlab.Uplink, bytes))
		}
	}
	t.Cleanup(func() { testutil.Must(t, f.LAN.SetMTU("lan1", 1500)) })
	setAll(1400)
	for _, node := range nodes[2:] {
		hasMTUs(t, node, 1330, 1350, 1330)
	}
	takes(t, older[2].Host, older[0].Host, 1350, 1330)
	takes(t, older[2].Host, older[3].Host, 1400, 1400)
	takes(t, older[0].Host, older[2].Host, 1430, 1330)
	newer := addPod(ctx, t, nodes[2], "b")
	takes(t, newer.Host, older[0].Host, 1330, 1330)
	takes(t, older[0].Host, newer.Host, 1330, 1330)

	setAll(1300) // which leaves IPv6 too little
	for _, node := range nodes[2:] {
		testutil.Must(t, node.WaitReadyz(ctx, func(_ int, body string) bool {
			return strings.Contains(body, "leaves 1230 for packets in plainroute-v6")
		}))
	}
	reachesUnchanged(ctx, t, older[2].Host, older[0].Host)
	reachesUnchanged(ctx, t, older[0].Host, older[3].Host)

	setAll(1500)
	for _, node := range nodes[2:] {
		hasMTUs(t, node, 1430, 1450, 1430)
	}
	newest := addPod(ctx, t, nodes[2], "c")
	takes(t, newest.Host, older[1].Host, 1430, 1430)
	testutil.Must(t, newer.Remove(ctx))
	takes(t, older[3].Host, newest.Host, 1430, 1430)
}
