package kubelets

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
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/plainroute/plainroute/test/netlab"
)

// Node is a machine of the cluster: namespaces, cgroups, and a disk, which is a folder.
type Node struct {
	Name  string
	index int

	// mu is held while the node is switched on or off.
	mu sync.Mutex
	// machine is nil while it is off.
	machine  *netlab.Host
	cgroups  []string
	launcher *exec.Cmd
	// done is closed when the node's processes have ended; stopping is set if they were asked to.
	done     chan struct{}
	stopping atomic.Bool
}

const (
	// maxNodes is how many addresses the LAN has for them, see test/netlab.
	maxNodes = 200
	// maxName leaves room for "to-" in the name of the cable's other end: IFNAMSIZ of linux/if.h is 16 with the zero.
	maxName = 12
)

// Disk folders of a node: what is left after a reboot.
const (
	diskVar = "var"
	diskOpt = "opt"
	diskCNI = "etc-cni"
)

// newNode makes a node that is off; without a name it is node-1, node-2...
func (c *Cluster) newNode(name string) (*Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == maxNodes {
		return nil, fmt.Errorf("making one more node: there are %d already", maxNodes)
	}
	if name == "" {
		name = fmt.Sprintf("node-%d", c.last+1)
	}
	if faults := validation.IsDNS1123Label(name); len(faults) > 0 || len(name) > maxName {
		return nil, fmt.Errorf("making a node: its name %q has more than %d characters, or: %s", name, maxName, strings.Join(faults, "; "))
	}
	if slices.ContainsFunc(c.nodes, func(n *Node) bool { return n.Name == name }) {
		return nil, fmt.Errorf("making a node: there is a %s already", name)
	}
	c.last++
	node := &Node{Name: name, index: c.last}
	if err := c.pki.kubeconfig(node.Name, apiURL(), identity{name: "system:node:" + node.Name, group: "system:nodes"}); err != nil {
		return nil, err
	}
	for _, dir := range []string{diskVar, diskOpt + "/cni/bin", diskCNI + "/net.d", "root"} {
		if err := os.MkdirAll(filepath.Join(c.nodeDir(node), dir), 0o755); err != nil {
			return nil, fmt.Errorf("making the disk of %s: %w", name, err)
		}
	}
	if err := c.stock.give(filepath.Join(c.nodeDir(node), diskVar, "lib", "containerd")); err != nil {
		return nil, err
	}
	c.nodes = append(c.nodes, node)
	return node, nil
}

func (c *Cluster) nodeDir(node *Node) string { return filepath.Join(c.config.Dir, "nodes", node.Name) }

// AddNode makes one more node and returns when it has registered. Without a name it gets the next number for one.
func (c *Cluster) AddNode(ctx context.Context, name string) (*Node, error) {
	node, err := c.newNode(name)
	if err != nil {
		return nil, err
	}
	if err := c.Start(node); err != nil {
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

// boot starts the node's processes; mu is held.
func (c *Cluster) boot(node *Node) error {
	var err error
	node.stopping.Store(false)
	if node.machine, err = c.topology.NewMachineOn((node.index-1)%c.config.LANs, node.Name, node.index); err != nil {
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
	launcher := node.launcher
	go func() {
		_ = launcher.Wait()
		close(done)
		if !node.stopping.Load() {
			c.reportEnd(node.Name)
		}
	}()
	return nil
}

// plan is the input of a node's PID 1.
type plan struct {
	Name, Dir, Bin, PKI, Logs, ProxyMode string
	Addresses                            []netip.Addr
	Cgroups                              []string
}

func (c *Cluster) writePlan(node *Node, addresses []netip.Addr) (string, error) {
	content, err := json.Marshal(plan{
		Name: node.Name, Dir: c.nodeDir(node), Bin: c.config.Bin, PKI: c.config.Dir + "/pki", Logs: c.config.Logs, ProxyMode: c.config.ProxyMode,
		Addresses: addresses, Cgroups: node.cgroups,
	})
	if err != nil {
		return "", fmt.Errorf("rendering the plan of %s: %w", node.Name, err)
	}
	path := filepath.Join(c.nodeDir(node), "plan.json")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return "", fmt.Errorf("writing the plan of %s: %w", node.Name, err)
	}
	return path, nil
}

// Stop is the node's power switch: its processes, network, memory and cgroups are gone, its disk stays.
func (c *Cluster) Stop(node *Node) error {
	node.mu.Lock()
	defer node.mu.Unlock()
	return c.stop(node)
}

func (c *Cluster) stop(node *Node) error {
	if node.machine == nil {
		return fmt.Errorf("%s is off already", node.Name)
	}
	node.stopping.Store(true)
	if err := c.kill(node); err != nil {
		return fmt.Errorf("switching %s off: %w", node.Name, err)
	}
	<-node.done
	err := errors.Join(removeCgroups(node.cgroups), os.RemoveAll(c.pidFile(node)), c.topology.Remove(node.machine))
	node.machine = nil
	return err
}

// kill ends the node's PID 1, or the launcher, with which it ends.
func (c *Cluster) kill(node *Node) error {
	select {
	case <-node.done:
		return nil
	default:
	}
	victim, err := c.pid(node)
	if err != nil {
		victim = node.launcher.Process.Pid
	}
	if err := unix.Kill(victim, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// Start switches a stopped node on.
func (c *Cluster) Start(node *Node) error {
	node.mu.Lock()
	defer node.mu.Unlock()
	if node.machine != nil {
		return fmt.Errorf("%s is on already", node.Name)
	}
	return c.boot(node)
}

// Reboot is off and on again. It returns when the node's processes have been started.
func (c *Cluster) Reboot(node *Node) error {
	node.mu.Lock()
	defer node.mu.Unlock()
	if err := c.stop(node); err != nil {
		return err
	}
	return c.boot(node)
}

// pid is the node's PID 1, as the launcher notes it: in the sandbox's process namespace, which is ours.
func (c *Cluster) pid(node *Node) (int, error) {
	content, err := os.ReadFile(c.pidFile(node))
	if err != nil {
		return 0, fmt.Errorf("finding PID 1 of %s: %w", node.Name, err)
	}
	pid, err := strconv.Atoi(string(content))
	if err != nil {
		return 0, fmt.Errorf("finding PID 1 of %s: %w", node.Name, err)
	}
	return pid, nil
}

// readyPID waits until the node's PID 1 has made its root.
func (c *Cluster) readyPID(node *Node) (int, error) {
	for {
		pid, err := c.pid(node)
		if err == nil {
			return pid, nil
		}
		select {
		case <-node.done:
			return 0, fmt.Errorf("%s has ended, see %s", node.Name, c.log(node.Name))
		case <-time.After(interval):
		}
	}
}

func (c *Cluster) pidFile(node *Node) string { return filepath.Join(c.nodeDir(node), pidFile) }

// Command returns a command that runs on the node, with the view of a process there. It has a process group of its own.
func (c *Cluster) Command(ctx context.Context, node *Node, args ...string) (*exec.Cmd, error) {
	node.mu.Lock()
	defer node.mu.Unlock()
	if node.machine == nil {
		return nil, fmt.Errorf("%s is off", node.Name)
	}
	first, err := c.readyPID(node)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(first), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--",
	}, args...)...)
	cmd.Env = []string{"PATH=" + nodePath, "HOME=/root", "TERM=" + os.Getenv("TERM")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, nil
}
