// Package kubelets is a real Kubernetes cluster on one machine, without Docker, virtual machines or an image registry: a
// control plane on a LAN, and nodes that are sets of namespaces with a kubelet, containerd, runc and kube-proxy each. It
// has no pod network: its nodes are not Ready before one is installed.
//
// It runs inside a sandbox (test/sandbox), which ends all of it. Cgroups are the one thing that outlives a
// sandbox: Janitor removes them.
package kubelets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/test/netlab"
)

// Config describes the cluster to start.
type Config struct {
	// Dir is where everything of the cluster is kept, Logs where its components log.
	Dir, Logs string
	// Bin is the folder with k8s/ and e2e/ of `hack/binaries.sh e2e`.
	Bin string
	// Nodes is how many there are at the start.
	Nodes int
	// LANs is 1, or 2 for nodes that are in turn on the first LAN and on another one behind the same router.
	LANs int
	// ProxyMode is kube-proxy's: nftables or iptables.
	ProxyMode string
	// Images are archives that every node gets before its kubelet starts.
	Images []string
	// Cgroup is the name below which nodes have their cgroups.
	Cgroup string
	// Say prints a line about progress.
	Say func(string)
}

// Check lists every binary that is missing, in one error.
func (c Config) Check() error {
	var missing []error
	for _, name := range []string{
		"k8s/etcd", "k8s/kube-apiserver", "e2e/kube-controller-manager", "e2e/kube-scheduler", "e2e/kubelet", "e2e/kube-proxy",
		"e2e/debian/usr/bin/containerd", "e2e/images/pause.tar",
	} {
		if _, err := os.Stat(filepath.Join(c.Bin, name)); err != nil {
			missing = append(missing, err)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("binaries are missing, `hack/binaries.sh k8s e2e` makes them:\n%w", errors.Join(missing...))
}

// Cluster is a running one.
type Cluster struct {
	config   Config
	pki      *authority
	topology *netlab.Topology
	stock    *stock
	api      *kubernetes.Clientset
	// ended receives the name of a component that has ended, until the cluster is up.
	ended chan string
	up    chan struct{}

	mu    sync.Mutex
	nodes []*Node
	last  int
}

// Up starts a cluster and returns when its nodes have registered.
func Up(ctx context.Context, config Config) (*Cluster, error) {
	start := time.Now()
	say := func(format string, args ...any) {
		config.Say(fmt.Sprintf("%5.1fs  ", time.Since(start).Seconds()) + fmt.Sprintf(format, args...))
	}
	for _, dir := range []string{config.Dir, config.Logs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("making a folder of the cluster: %w", err)
		}
	}
	c := &Cluster{config: config, ended: make(chan string), up: make(chan struct{})}
	var err error
	if c.pki, err = newAuthority(filepath.Join(config.Dir, "pki")); err != nil {
		return nil, fmt.Errorf("making the certificate authority: %w", err)
	}
	if c.topology, err = netlab.New(); err != nil {
		return nil, err
	}
	if config.LANs == 2 {
		if err := c.topology.AddSecondLAN(); err != nil {
			return nil, err
		}
	}
	say("starting etcd, kube-apiserver and %d nodes", config.Nodes)
	group, planning := errgroup.WithContext(ctx)
	group.Go(func() error { return c.startPlane(planning) })
	if c.stock, err = c.newStock(ctx); err != nil {
		return nil, err
	}
	say("%d images are unpacked", len(config.Images))
	for range config.Nodes {
		node, err := c.newNode("")
		if err != nil {
			return nil, err
		}
		group.Go(func() error { return c.Start(node) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	say("the control plane is up at %s", apiURL())
	for _, node := range c.nodes {
		if err := c.registered(ctx, node); err != nil {
			return nil, err
		}
	}
	say("%d nodes have registered", len(c.nodes))
	close(c.up)
	return c, nil
}

func (c *Cluster) registered(ctx context.Context, node *Node) error {
	return c.await(ctx, node.Name+" to register", func(ctx context.Context) error {
		object, err := c.api.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err == nil && len(object.Spec.PodCIDRs) == 0 {
			err = errors.New("it has no pod subnets yet")
		}
		return err
	})
}

// start starts a component of the control plane, which logs to a file of its name.
func (c *Cluster) start(name, path string, args ...string) error {
	log, err := c.openLog(name)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, c.config.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = cmd.Wait()
		c.reportEnd(name)
	}()
	return nil
}

// reportEnd reports a component that has ended too early: to Up while that waits, later by Say.
func (c *Cluster) reportEnd(name string) {
	select {
	case c.ended <- name:
	case <-c.up:
		c.config.Say(fmt.Sprintf("%s has ended, see %s", name, c.log(name)))
	}
}
