package nodelab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
)

// stopLimit is how long an agent may take to end after a signal: a DaemonSet's pod is given 30 s.
const stopLimit = 10 * time.Second

var errEnded = errors.New("the process has ended")

// process is a command that runs, or has run, on a node.
type process struct {
	cmd *exec.Cmd
	// ended is closed when the process is gone and err is set.
	ended chan struct{}
	err   error
}

// AgentOptions change how an agent is started; the zero value is how a node's agent is started.
type AgentOptions struct {
	// Kubeconfig is another identity or API server than the agents'.
	Kubeconfig string
	// WithoutNetAdmin takes from the agent the one capability that it can't do without.
	WithoutNetAdmin bool
	// Start starts the agent's process in another way, such as under a clock of its own.
	Start func(*netlab.Namespace, *exec.Cmd) error
	// WithoutClusterCIDR starts the agent without --cluster-cidr.
	WithoutClusterCIDR bool
	// Confined gives the agent the rights of the DaemonSet: CAP_NET_ADMIN alone and a read-only root.
	Confined bool
	// Env is added to the agent's environment.
	Env []string
	// Args are added to the command line.
	Args []string
}

// StartAgent starts the node's agent, which writes its log below the cluster's folder. It doesn't wait.
func (n *Node) StartAgent(options AgentOptions) error {
	if n.AgentRunning() {
		return fmt.Errorf("starting the agent of %s: one runs already", n.Name)
	}
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the agent's log: %w", err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), n.cluster.config.Agent, n.agentArgs(options)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), options.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.start(cmd, options); err != nil {
		return fmt.Errorf("starting the agent of %s: %w", n.Name, err)
	}
	agent := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		agent.err = cmd.Wait()
		close(agent.ended)
	}()
	n.agent = agent
	return nil
}

func (n *Node) start(cmd *exec.Cmd, options AgentOptions) error {
	switch {
	case options.WithoutNetAdmin:
		return n.DoWithout(unix.CAP_NET_ADMIN, cmd.Start)
	case options.Confined:
		return n.DoConfined(cmd.Start)
	case options.Start != nil:
		return options.Start(n.Namespace, cmd)
	default:
		return n.Do(cmd.Start)
	}
}

func (n *Node) agentArgs(options AgentOptions) []string {
	kubeconfig := options.Kubeconfig
	if kubeconfig == "" {
		kubeconfig = n.cluster.kubeconfig(AgentUser)
	}
	args := []string{
		"agent",
		"--node-name", n.Name,
		"--kubeconfig", kubeconfig,
		"--service-cidr", serviceRange,
		"--run-dir", n.RunDir,
		"--cni-conf-dir", n.ConfDir,
		"--cni-bin-dir", n.cluster.config.Plugins,
		"--listen", fmt.Sprintf("127.0.0.1:%d", agentPort),
		"--metrics-listen", fmt.Sprintf("127.0.0.1:%d", metricsPort),
	}
	if !options.WithoutClusterCIDR {
		args = append(args, "--cluster-cidr", PodRange4.String()+","+PodRange6.String())
	}
	if options.Confined {
		args = append(args, "--proc-sys", n.procSys())
	}
	return append(args, options.Args...)
}

// SignalAgent sends the agent a signal and doesn't wait for the effect.
func (n *Node) SignalAgent(signal syscall.Signal) error {
	if !n.AgentRunning() {
		return fmt.Errorf("sending %s to the agent of %s: %w already", signal, n.Name, errEnded)
	}
	if err := n.agent.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("sending %s to the agent of %s: %w", signal, n.Name, err)
	}
	return nil
}

// PauseAgent stops the agent until it gets SIGCONT. All of its threads stand still when PauseAgent returns: the kernel
// notifies a parent of a stop when the last thread has stopped (Linux, kernel/signal.c).
func (n *Node) PauseAgent() error {
	if err := n.SignalAgent(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, n.AgentPID(), nil, unix.WSTOPPED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("waiting until the agent of %s has stopped: %w", n.Name, err)
		}
		return nil
	}
}

// AgentPID returns the process id of the agent started last, as /proc of the sandbox shows it.
func (n *Node) AgentPID() int { return n.agent.cmd.Process.Pid }

// StopAgent sends the agent a signal and waits until it has ended.
func (n *Node) StopAgent(signal syscall.Signal) error {
	if err := n.SignalAgent(signal); err != nil {
		return err
	}
	select {
	case <-n.agent.ended:
		return nil
	case <-time.After(stopLimit):
		return fmt.Errorf("stopping the agent of %s: still there %s after %s\nend of its log:\n%s",
			n.Name, stopLimit, signal, n.LogTail(20))
	}
}

// AwaitAgentEnd waits until the agent has ended by itself, and returns the error of its process.
func (n *Node) AwaitAgentEnd(ctx context.Context) error {
	select {
	case <-n.agent.ended:
		return n.agent.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the agent of %s to end: %w", n.Name, ctx.Err())
	}
}

// AgentRunning reports whether the agent's process runs.
func (n *Node) AgentRunning() bool {
	if n.agent == nil {
		return false
	}
	select {
	case <-n.agent.ended:
		return false
	default:
		return true
	}
}

// LogFile returns the file in which the agents of the node, one after the other, write.
func (n *Node) LogFile() string { return filepath.Join(n.dir, "agent.log") }

// LogTail returns the end of the agent's log, for an error message.
func (n *Node) LogTail(lines int) string {
	content, err := os.ReadFile(n.LogFile())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
