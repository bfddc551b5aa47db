package nodelab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/testutil"
)

// Ports of the agent inside its node.
const (
	agentPort   = 9472
	metricsPort = 9473
)

// requestTimeout bounds one request to an agent.
const requestTimeout = 5 * time.Second

// readyInterval is how often WaitReady asks: shorter than anything that it measures.
const readyInterval = 20 * time.Millisecond

// Node is a machine of the LAN that is, or will be, a Kubernetes node.
type Node struct {
	*netlab.Host
	// Index is the node's number, from 1.
	Index int
	// LAN is the number of the LAN that the node is on: 0, or 1 for the second one.
	LAN int
	// Subnets are the node's pod subnets, IPv4 first.
	Subnets []netip.Prefix
	// ConfDir is the node's CNI folder, RunDir the agent's folder.
	ConfDir, RunDir string

	cluster *Cluster
	dir     string
	agent   *process
	http    *http.Client
}

// NewNode makes the machine of node number index (1 to 200): its namespace on the LAN and its folders. Nothing runs on
// it and the API server has no Node object of it yet.
func (c *Cluster) NewNode(index int) (*Node, error) { return c.NewNodeOn(0, index) }

// NewNodeOn is NewNode on the first LAN (0) or the second one (1).
func (c *Cluster) NewNodeOn(lan, index int) (*Node, error) {
	name := fmt.Sprintf("node%d", index)
	dir := filepath.Join(c.config.Dir, name)
	node := &Node{
		cluster: c, dir: dir, Index: index, LAN: lan, Subnets: podSubnets(index),
		ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run"),
	}
	if err := node.switchOn(); err != nil {
		return nil, fmt.Errorf("making %s: %w", name, err)
	}
	node.http = &http.Client{Timeout: requestTimeout, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: node.dialLiteral,
	}}
	if err := os.MkdirAll(node.ConfDir, 0o755); err != nil {
		return nil, fmt.Errorf("making the CNI folder of %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, node)
	return node, nil
}

// switchOn makes the node's machine, which answers probes.
func (n *Node) switchOn() (err error) {
	if n.Host, err = n.cluster.NewMachineOn(n.LAN, fmt.Sprintf("node%d", n.Index), n.Index); err != nil {
		return err
	}
	return n.Serve()
}

// dialLiteral is the http client's way into the node.
func (n *Node) dialLiteral(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	return n.Dial(ctx, network, to)
}

// Reboot removes from the node the same as a reboot: its processes, its pods, all of the kernel's
// state and what is below /run. The CNI folder, which is on disk, stays. The agent isn't started
// again.
func (n *Node) Reboot() error {
	if n.AgentRunning() {
		if err := n.StopAgent(syscall.SIGKILL); err != nil {
			return err
		}
	}
	if err := n.cluster.Remove(n.Host); err != nil {
		return err
	}
	if err := os.RemoveAll(n.RunDir); err != nil {
		return fmt.Errorf("rebooting %s: %w", n.Name, err)
	}
	if err := n.switchOn(); err != nil {
		return fmt.Errorf("rebooting %s: %w", n.Name, err)
	}
	return nil
}

// Retire takes the node out of the cluster for good, in any state: its agent, its Node object, its pods, its
// namespace and its folders. Another node may have its number afterwards.
func (n *Node) Retire(ctx context.Context) error {
	var faults []error
	if n.AgentRunning() {
		faults = append(faults, n.StopAgent(syscall.SIGKILL))
	}
	if err := n.Deregister(ctx); !apierrors.IsNotFound(err) {
		faults = append(faults, err)
	}
	for _, pod := range n.forget() {
		faults = append(faults, pod.Close())
	}
	return errors.Join(append(faults, n.cluster.Remove(n.Host), os.RemoveAll(n.dir))...)
}

// forget removes the node and its pods from the cluster's lists, and returns the pods.
func (n *Node) forget() []*Pod {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	var gone, left []*Pod
	for _, pod := range c.pods {
		if pod.Node == n {
			gone = append(gone, pod)
		} else {
			left = append(left, pod)
		}
	}
	c.pods = left
	c.nodes = slices.DeleteFunc(c.nodes, func(other *Node) bool { return other == n })
	return gone
}

func podSubnets(index int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", index)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", index)),
	}
}

// AddNode makes a node on a LAN with its Node object and a running agent, whose command line has more args. WaitReady
// waits until pods can be attached.
func (c *Cluster) AddNode(ctx context.Context, lan, index int, args ...string) (*Node, error) {
	node, err := c.NewNodeOn(lan, index)
	if err != nil {
		return nil, err
	}
	if err := node.Register(ctx); err != nil {
		return nil, err
	}
	if err := node.StartAgent(AgentOptions{Args: args}); err != nil {
		return nil, err
	}
	return node, nil
}

// Get reads a page of the agent, such as /readyz, from inside its node.
func (n *Node) Get(ctx context.Context, path string) (code int, body string, err error) {
	return n.get(ctx, agentPort, path)
}

// Metrics reads the agent's metrics page.
func (n *Node) Metrics(ctx context.Context) (string, error) {
	_, body, err := n.get(ctx, metricsPort, "/metrics")
	return body, err
}

func (n *Node) get(ctx context.Context, port uint16, path string) (int, string, error) {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return 0, "", fmt.Errorf("making a request for %s: %w", path, err)
	}
	response, err := n.http.Do(request)
	if err != nil {
		return 0, "", fmt.Errorf("asking the agent of %s: %w", n.Name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return 0, "", fmt.Errorf("reading the answer of the agent of %s: %w", n.Name, err)
	}
	return response.StatusCode, string(body), nil
}

// WaitReady waits until the agent's /readyz answers 200.
func (n *Node) WaitReady(ctx context.Context) error {
	return n.WaitReadyz(ctx, func(code int, _ string) bool { return code == http.StatusOK })
}

// WaitReadyz waits until want accepts the agent's /readyz. It gives up early when the agent has ended.
func (n *Node) WaitReadyz(ctx context.Context, want func(code int, body string) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	last := errors.New("no answer")
	err := testutil.Poll(ctx, readyInterval, func() error {
		code, body, err := n.Get(ctx, "/readyz")
		switch {
		case err == nil && want(code, body):
			return nil
		case err == nil:
			last = fmt.Errorf("last /readyz: %d %s", code, strings.TrimSpace(body))
		}
		if !n.AgentRunning() {
			cancel(errEnded)
		}
		return last
	})
	if err != nil {
		return fmt.Errorf("waiting for the agent of %s: %w\nend of its log:\n%s", n.Name, err, n.LogTail(20))
	}
	return nil
}
