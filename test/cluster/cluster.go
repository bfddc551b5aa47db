// Package cluster is a Kubernetes cluster on one machine, made of network namespaces: a real etcd and kube-apiserver,
// nodes that are namespaces on one LAN with a plainroute agent each, pods attached by the stock CNI plugins, and a
// host outside. It sends and receives in Go, so that a machine needs no ping, nft or tcpdump.
//
// It has to run inside a sandbox (package sandbox), whose network namespace becomes the LAN and whose end is what
// makes sure that nothing is left behind.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Config says where things are.
type Config struct {
	// Dir is an empty or missing folder for everything that the cluster writes.
	Dir string
	// Assets holds etcd and kube-apiserver, Plugins the CNI plugins, and Agent is the plainroute binary.
	Assets, Plugins, Agent string
}

// Cluster is a running cluster.
type Cluster struct {
	// LAN is the namespace of the nodes' switch, their router and the API server.
	LAN *Namespace
	// Outside is a host beyond the router that has no route to any pod.
	Outside *Host

	config Config
	plane  *controlPlane

	mu    sync.Mutex
	nodes []*Node
	pods  []*Pod
}

// ConfigFromEnv takes the binaries from KUBEBUILDER_ASSETS, CNI_BIN and PLAINROUTE_BIN, where set, and else from the
// bin folder below root, where `make assets build` puts them.
func ConfigFromEnv(root, dir string) Config {
	return Config{
		Dir:     dir,
		Assets:  environment("KUBEBUILDER_ASSETS", filepath.Join(root, "bin", "k8s")),
		Plugins: environment("CNI_BIN", filepath.Join(root, "bin", "cni")),
		Agent:   environment("PLAINROUTE_BIN", filepath.Join(root, "bin", "plainroute")),
	}
}

// Plugins is the folder of the CNI plugins that pods are attached with.
func (c *Cluster) Plugins() string { return c.config.Plugins }

func environment(key, otherwise string) string {
	if value := os.Getenv(key); value != "" {
		return value
	}
	return otherwise
}

// Check lists every binary that is missing, in one error.
func (c Config) Check() error {
	var missing []error
	for _, path := range []string{
		filepath.Join(c.Assets, "etcd"), filepath.Join(c.Assets, "kube-apiserver"),
		filepath.Join(c.Plugins, "bridge"), filepath.Join(c.Plugins, "host-local"), filepath.Join(c.Plugins, "portmap"),
		c.Agent,
	} {
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, err)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("binaries are missing, `make assets build` makes them:\n%w", errors.Join(missing...))
}

// Start makes the LAN, the host outside and the control plane; nodes are added later. Nothing stops them again: they
// end with the sandbox.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if err := config.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the cluster's folder: %w", err)
	}
	lan, err := newLAN()
	if err != nil {
		return nil, fmt.Errorf("making the LAN: %w", err)
	}
	outside, err := newOutside(lan)
	if err != nil {
		return nil, fmt.Errorf("making the host outside: %w", err)
	}
	plane, err := startControlPlane(ctx, config.Assets, config.Dir)
	if err != nil {
		return nil, err
	}
	return &Cluster{LAN: lan, Outside: outside, config: config, plane: plane}, nil
}

// Nodes are the nodes made so far.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Node(nil), c.nodes...)
}

// AddUser makes an API identity without any right and returns its kubeconfig's path; Grant gives it the agent's rights.
func (c *Cluster) AddUser(name string) (kubeconfig string, err error) { return c.plane.addUser(name) }

// Grant gives an identity the agent's rights.
func (c *Cluster) Grant(ctx context.Context, user string) error { return c.plane.grant(ctx, user) }

// Kubeconfig writes a changed copy of the agents' kubeconfig and returns its path.
func (c *Cluster) Kubeconfig(name string, change func(*clientcmdapi.Config)) (string, error) {
	config, err := clientcmd.LoadFromFile(c.plane.kubeconfig(AgentUser))
	if err != nil {
		return "", fmt.Errorf("loading the agents' kubeconfig: %w", err)
	}
	change(config)
	if err := clientcmd.WriteToFile(*config, c.plane.kubeconfig(name)); err != nil {
		return "", fmt.Errorf("writing kubeconfig %s: %w", name, err)
	}
	return c.plane.kubeconfig(name), nil
}
