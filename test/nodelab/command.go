package nodelab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
)

// Command is a run of plainroute on a node, as an operator there would run it.
type Command struct {
	Stdout, Stderr string
	// Code is the exit code, -1 after a signal.
	Code int
}

// Plainroute runs a command of plainroute on the node and waits for it; the end of ctx kills it.
func (n *Node) Plainroute(ctx context.Context, args ...string) (Command, error) {
	return n.PlainrouteUntil(ctx, syscall.SIGKILL, args...)
}

// PlainrouteUntil is Plainroute with another signal at the end of ctx.
func (n *Node) PlainrouteUntil(ctx context.Context, signal syscall.Signal, args ...string) (Command, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, n.cluster.config.Agent, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(signal) }
	err := n.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		return Command{}, fmt.Errorf("running plainroute %v on %s: %w", args, n.Name, err)
	}
	return Command{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, nil
}

// Cleanup runs plainroute cleanup with the node's folders.
func (n *Node) Cleanup(ctx context.Context, args ...string) (Command, error) {
	return n.Plainroute(ctx, append(n.CleanupArgs(), args...)...)
}

// CleanupArgs is the command line of plainroute cleanup with the node's folders.
func (n *Node) CleanupArgs() []string {
	return []string{"cleanup", "--run-dir", n.RunDir, "--cni-conf-dir", n.ConfDir, "--cni-cache-dir", n.cacheDir()}
}

// Doctor runs plainroute doctor with the agent's identity and the node's folders.
func (n *Node) Doctor(ctx context.Context, args ...string) (Command, error) {
	return n.Plainroute(ctx, append([]string{
		"doctor", "--node-name", n.Name, "--kubeconfig", n.cluster.kubeconfig(AgentUser), "--run-dir", n.RunDir, "--cni-conf-dir", n.ConfDir,
		"--cni-bin-dir", n.cluster.config.Plugins, "--listen", fmt.Sprintf("127.0.0.1:%d", agentPort),
	}, args...)...)
}
