package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	base "github.com/plainroute/plainroute/test/cluster"
)

// Node is a machine of the cluster: namespaces, cgroups, and a disk, which is a folder.
type Node struct {
	Name  string
	index int

	machine  *base.Host
	cgroups  []string
	launcher *exec.Cmd
	done     chan struct{}
}

// Disk folders of a node: what is left after a reboot.
const (
	diskVar = "var"
	diskOpt = "opt"
	diskCNI = "etc-cni"
)

func (c *Cluster) newNode() (*Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	node := &Node{Name: fmt.Sprintf("node-%d", c.last), index: c.last}
	if err := c.pki.kubeconfig(node.Name, apiURL(), identity{name: "system:node:" + node.Name, group: "system:nodes"}); err != nil {
		return nil, err
	}
	for _, dir := range []string{diskVar, diskOpt + "/cni/bin", diskCNI + "/net.d", "root"} {
		if err := os.MkdirAll(filepath.Join(c.nodeDir(node), dir), 0o755); err != nil {
			return nil, err
		}
	}
	c.nodes = append(c.nodes, node)
	return node, nil
}

func (c *Cluster) nodeDir(node *Node) string { return filepath.Join(c.config.Dir, "nodes", node.Name) }

// AddNode makes one more node and returns when it has registered.
func (c *Cluster) AddNode(ctx context.Context) (*Node, error) {
	node, err := c.newNode()
	if err != nil {
		return nil, err
	}
	if err := c.boot(node); err != nil {
		return nil, err
	}
	return node, c.registered(ctx, node)
}

// find returns the node of a name.
func (c *Cluster) find(name string) (*Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.nodes, func(n *Node) bool { return n.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no node %q", name)
	}
	return c.nodes[i], nil
}

// boot starts the node's processes.
func (c *Cluster) boot(node *Node) error {
	var err error
	if node.machine, err = c.site.NewMachine(node.Name, node.index); err != nil {
		return err
	}
	addresses := node.machine.Addrs()
	if err := c.pki.issue("serving-"+node.Name, identity{name: node.Name, names: []string{node.Name}, addresses: addresses}); err != nil {
		return err
	}
	if node.cgroups, err = makeCgroups(c.config.Cgroup + "/" + node.Name); err != nil {
		return err
	}
	path, err := c.writePlan(node, addresses)
	if err != nil {
		return err
	}
	log, err := c.openLog(node.Name)
	if err != nil {
		return err
	}
	defer log.Close()
	node.launcher = exec.CommandContext(context.Background(), "/proc/self/exe", path)
	node.launcher.Args[0] = launchName
	node.launcher.Stdout, node.launcher.Stderr = log, log
	if err := node.machine.Do(node.launcher.Start); err != nil {
		return fmt.Errorf("starting %s: %w", node.Name, err)
	}
	done := make(chan struct{})
	node.done = done
	go func() {
		_ = node.launcher.Wait()
		close(done)
	}()
	return nil
}

// plan is what a node's PID 1 has to know.
type plan struct {
	Name, Dir, Bin, PKI, Logs, ProxyMode string
	Addresses                            []netip.Addr
	Images, Cgroups                      []string
}

func (c *Cluster) writePlan(node *Node, addresses []netip.Addr) (string, error) {
	content, err := json.Marshal(plan{
		Name: node.Name, Dir: c.nodeDir(node), Bin: c.config.Bin, PKI: c.config.Dir + "/pki", Logs: c.config.Logs, ProxyMode: c.config.ProxyMode,
		Addresses: addresses, Images: c.config.Images, Cgroups: node.cgroups,
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.nodeDir(node), "plan.json")
	return path, os.WriteFile(path, content, 0o644)
}

// Stop is the node's power switch: its processes, network, memory and cgroups are gone, its disk stays.
func (c *Cluster) Stop(node *Node) error {
	if node.machine == nil {
		return fmt.Errorf("%s is off already", node.Name)
	}
	if first, err := c.pid(node); err == nil {
		if err := unix.Kill(first, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	} else {
		_ = node.launcher.Process.Kill()
	}
	<-node.done
	err := errors.Join(removeCgroups(node.cgroups), c.site.Remove(node.machine))
	node.machine = nil
	return err
}

// Start switches a stopped node on.
func (c *Cluster) Start(node *Node) error {
	if node.machine != nil {
		return fmt.Errorf("%s is on already", node.Name)
	}
	return c.boot(node)
}

// Reboot is off and on again. It returns when the node's processes have been started.
func (c *Cluster) Reboot(node *Node) error {
	if err := c.Stop(node); err != nil {
		return err
	}
	return c.boot(node)
}

// pid is the node's PID 1, as the launcher notes it: in the sandbox's process namespace, which is ours.
func (c *Cluster) pid(node *Node) (int, error) {
	content, err := os.ReadFile(filepath.Join(c.nodeDir(node), pidFile))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(content))
}

// Command is one that runs on the node, with all that a process there sees.
func (c *Cluster) Command(ctx context.Context, n *Node, args ...string) (*exec.Cmd, error) {
	if n.machine == nil {
		return nil, fmt.Errorf("%s is off", n.Name)
	}
	first, err := c.pid(n)
	if err != nil {
		return nil, fmt.Errorf("finding PID 1 of %s: %w", n.Name, err)
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(first), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/", "--",
	}, args...)...)
	cmd.Env = []string{"PATH=" + nodePath, "HOME=/root", "TERM=" + os.Getenv("TERM")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, nil
}
