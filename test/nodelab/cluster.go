// Package nodelab is a Kubernetes cluster on one machine without kubelets: a real etcd and kube-apiserver, nodes that are
// namespaces on one LAN (package netlab) with a plainroute agent each, and pods attached by the stock CNI plugins.
//
// It has to run inside a sandbox (package sandbox), whose end makes sure that nothing is left behind.
package nodelab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/testutil"
)

// Config names the folders and binaries of a cluster.
type Config struct {
	// Dir is an empty or missing folder for everything that the cluster writes.
	Dir string
	// Assets holds etcd and kube-apiserver, Plugins the CNI plugins, and Agent is the plainroute binary.
	Assets, Plugins, Agent string
	// Fake has a Fake in this process instead of etcd and kube-apiserver, which no emulated machine can run.
	Fake bool
}

// DefaultConfig takes the binaries from KUBEBUILDER_ASSETS, CNI_BIN and PLAINROUTE_BIN, where set, and else from the
// module's bin folder. Dir is inside the sandbox, where /run is empty and in memory.
func DefaultConfig() Config {
	return Config{Dir: "/run/cluster", Assets: testutil.Assets(), Plugins: testutil.Plugins(), Agent: testutil.Agent()}
}

// Check returns an error that names the missing binaries, if any.
func (c Config) Check() error {
	binaries := []string{filepath.Join(c.Plugins, "bridge"), filepath.Join(c.Plugins, "host-local"), filepath.Join(c.Plugins, "portmap"), c.Agent}
	if !c.Fake {
		binaries = append(binaries, testutil.ControlPlane(c.Assets)...)
	}
	return testutil.Present(binaries...)
}

// Cluster is a running cluster.
type Cluster struct {
	// Topology is the network: the nodes' LAN and a host outside.
	*netlab.Topology
	// API is the API server, which listens at the LAN's router; nil: it is a Fake.
	API *apiserver.ControlPlane

	config Config
	client kubernetes.Interface

	mu    sync.Mutex
	nodes []*Node
	pods  []*Pod
}

// Plugins is the folder of the CNI plugins that pods are attached with.
func (c *Cluster) Plugins() string { return c.config.Plugins }

// Start makes the LAN, the host outside and the control plane; nodes are added later. They end with the sandbox.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if err := config.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the cluster's folder: %w", err)
	}
	topology, err := netlab.New()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Topology: topology, config: config}
	if config.Fake {
		return c, c.startFake()
	}
	return c, c.startControlPlane(ctx)
}

// Nodes are the nodes made so far.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Node(nil), c.nodes...)
}

// Client is the administrator's.
func (c *Cluster) Client() kubernetes.Interface { return c.client }
