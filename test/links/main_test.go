// Package links runs agents on nodes whose InternalIPs are on links of many kinds: VLANs, bonds, WireGuard, addresses on lo. A test
// of a kind that the kernel lacks is skipped; `make test-kernels` runs all of them on Debian's kernels. The API server is a Fake,
// because kube-apiserver does not become ready on an emulated machine.
package links

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

func config() nodelab.Config {
	c := nodelab.DefaultConfig()
	c.Fake = true
	return c
}

func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, config().Check)) }

// slow is the factor of all limits of time on an emulated machine, which is about nine times slower.
var slow = map[bool]int{false: 1, true: 5}[os.Getenv("EMULATED") != ""]

// limit bounds what a test waits for.
var limit = time.Duration(slow) * testutil.Limit

// flowTime is a number of packets that a flow sends before and after a change.
const flowTime = 30

// shared is the one cluster of all tests. It has two LANs, with the API server on the first one.
var shared = sync.OnceValues(func() (*nodelab.Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := nodelab.Start(ctx, config())
	if err != nil {
		return nil, err
	}
	return c, c.AddSecondLAN()
})

// A fixture is two nodes, each on both LANs: by eth0 on the first one, which is its default route, and by eth1 on the second.
type fixture struct {
	*nodelab.Cluster
	nodes []*nodelab.Node
	pods  []*nodelab.Pod
}

// last is the number of the node made last. Each test's nodes are new.
var last int

// setup makes two nodes without agents.
func setup(t *testing.T) *fixture {
	t.Helper()
	testutil.NeedSandbox(t)
	c, err := shared()
	testutil.Must(t, err)
	f := &fixture{Cluster: c}
	for range 2 {
		last++
		node, err := c.NewNode(last)
		testutil.Must(t, err)
		t.Cleanup(func() {
			if t.Failed() && node.AgentRunning() {
				t.Logf("end of the log of %s's agent:\n%s", node.Name, node.LogTail(15))
			}
			testutil.Must(t, node.Retire(context.Background()))
		})
		_, _, err = c.AddLink(node.Host, 1, storage, node.Index)
		testutil.Must(t, err)
		f.nodes = append(f.nodes, node)
	}
	return f
}

// storage is a node's device on the second LAN.
const storage = "eth1"

// storageAddrs are a node's addresses on the second LAN.
func storageAddrs(node *nodelab.Node) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{192, 168, 2, byte(10 + node.Index)}), netip.MustParseAddr(fmt.Sprintf("fd00:192:168:2::%d", 10+node.Index)),
	}
}

// on makes addresses of each node its InternalIPs.
func (f *fixture) on(t *testing.T, address func(*nodelab.Node) (v4, v6 netip.Addr)) {
	t.Helper()
	for _, node := range f.nodes {
		node.V4, node.V6 = address(node)
		testutil.Must(t, node.ServeAgain())
	}
}

// start registers the nodes, starts an agent on each and attaches a pod to each.
func (f *fixture) start(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	for _, node := range f.nodes {
		testutil.Must(t, node.Register(ctx))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: args}))
	}
	for _, node := range f.nodes {
		testutil.Must(t, node.WaitReady(ctx))
		for _, peer := range f.nodes {
			if peer != node {
				testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
			}
		}
		pod, err := node.AddPod(ctx, "a")
		testutil.Must(t, err)
		f.pods = append(f.pods, pod)
	}
}

// again starts the agents again, with other arguments.
func (f *fixture) again(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	for _, node := range f.nodes {
		testutil.Must(t, node.StopAgent(syscall.SIGTERM))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: args}))
	}
	for _, node := range f.nodes {
		testutil.Must(t, node.WaitReady(ctx))
	}
}

// reachEachOther fails the test unless each pod reaches each other one by TCP, UDP and ping, without NAT, and the nodes reach the
// pods.
func (f *fixture) reachEachOther(ctx context.Context, t *testing.T) {
	t.Helper()
	for i, from := range f.pods {
		for _, to := range f.pods {
			for _, address := range to.Addrs() {
				if from != to {
					arrives(ctx, t, from.Host, address, from.Addr(address))
				}
			}
		}
		for _, node := range f.nodes[i+1:] {
			for _, address := range from.Addrs() {
				if _, err := node.TCP(ctx, address); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// arrives fails the test unless TCP, UDP and a ping arrive at an address, TCP and UDP with the source want.
func arrives(ctx context.Context, t *testing.T, from *netlab.Host, to, want netip.Addr) {
	t.Helper()
	for network, ask := range map[string]func(context.Context, netip.Addr) (netlab.Reply, error){"tcp": from.TCP, "udp": from.UDP} {
		reply, err := ask(ctx, to)
		if err != nil {
			t.Error(err)
		} else if reply.Source != want {
			t.Errorf("%s to %s over %s is seen as %s; want %s", from.Name, to, network, reply.Source, want)
		}
	}
	if _, err := from.Ping(ctx, to); err != nil {
		t.Error(err)
	}
}

// awaitDevice waits until a node's routes to a peer's pods lead to a device.
func awaitDevice(t *testing.T, node, peer *nodelab.Node, devices ...string) {
	t.Helper()
	for i, subnet := range peer.Subnets {
		want := devices[i%len(devices)]
		testutil.AwaitWithin(t, limit, testutil.Interval, func() error { return node.LeadsTo(subnet, want) })
	}
}

// viewOf is the JSON of plainroute status.
func viewOf(ctx context.Context, t *testing.T, node *nodelab.Node) (view status.View) {
	t.Helper()
	cmd, err := node.Plainroute(ctx, "status", "--run-dir", node.RunDir, "--cni-conf-dir", node.ConfDir, "-o", "json")
	testutil.Must(t, err)
	if err := json.Unmarshal([]byte(cmd.Stdout), &view); err != nil {
		t.Fatalf("%v in %s%s", err, cmd.Stdout, cmd.Stderr)
	}
	return view
}

// paths fails the test unless status of the first node shows a path to the second one's pods, by a foreign route, in each family.
func (f *fixture) paths(ctx context.Context, t *testing.T, want map[netip.Prefix]string) {
	t.Helper()
	view := viewOf(ctx, t, f.nodes[0])
	for _, p := range view.Peers {
		if got := string(p.Path) + " by " + p.By; want[p.Subnet] != "" && got != want[p.Subnet] {
			t.Errorf("status of %s shows the path %q to %s; want %q", f.nodes[0].Name, got, p.Subnet, want[p.Subnet])
		}
	}
}

// flows starts pings both ways between the first two pods, in both families.
func (f *fixture) flows(t *testing.T) (all []*netlab.Flow) {
	t.Helper()
	for _, pair := range [][2]*nodelab.Pod{{f.pods[0], f.pods[1]}, {f.pods[1], f.pods[0]}} {
		for _, address := range pair[1].Addrs() {
			flow, err := pair[0].StartFlow(address)
			testutil.Must(t, err)
			all = append(all, flow)
		}
	}
	return all
}

// stop stops flows and fails the test if one lost more packets in a row than allowed.
func stop(t *testing.T, flows []*netlab.Flow, allowed int) {
	t.Helper()
	for _, flow := range flows {
		count := flow.Stop()
		t.Logf("%s, %d in a row", count, count.LongestLoss)
		if count.Received == 0 || count.LongestLoss > allowed*slow {
			t.Errorf("%s: want at most %d lost in a row", count, allowed*slow)
		}
	}
}

// podMTU fails the test unless the pods have an MTU.
func (f *fixture) podMTU(t *testing.T, want int) {
	t.Helper()
	for _, pod := range f.pods {
		link, err := pod.Handle().LinkByName(netlab.Uplink)
		testutil.Must(t, err)
		if got := link.Attrs().MTU; got != want {
			t.Errorf("%s has the MTU %d; want %d", pod.Name, got, want)
		}
	}
}

// shows returns an error unless a node's status shows paths to all peers by a route with words.
func shows(ctx context.Context, t *testing.T, node *nodelab.Node, words string) error {
	t.Helper()
	for _, p := range viewOf(ctx, t, node).Peers {
		if !strings.Contains(p.By, words) {
			return fmt.Errorf("status of %s shows the path to %s by %q; want %q in it", node.Name, p.Subnet, p.By, words)
		}
	}
	return nil
}
