package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopLimit is longer than the agent takes to end after SIGTERM.
const stopLimit = 10 * time.Second

// agent is the process under test.
type agent struct {
	cmd     *exec.Cmd
	log     string
	started time.Time
	ended   chan error
}

// startAgent starts the agent on the machine, as its DaemonSet would.
func (l *lab) startAgent() error {
	log, err := os.OpenFile(l.opts.agentLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the agent's log: %w", err)
	}
	defer log.Close()
	args := []string{
		"agent",
		"--node-name", nodeName(ownIndex),
		"--kubeconfig", l.kubeconfig,
		"--cluster-cidr", l.podRanges(),
		"--run-dir", l.machine.RunDir,
		"--cni-conf-dir", l.machine.ConfDir,
		"--cni-bin-dir", l.opts.Plugins,
		"--listen", "127.0.0.1:9472",
	}
	if l.opts.offLink {
		args = append(args, "--encapsulation=cross-subnet")
	}
	cmd := exec.Command(l.opts.Agent, args...)
	cmd.Stdout, cmd.Stderr = log, log
	a := &agent{cmd: cmd, log: l.opts.agentLog, ended: make(chan error, 1)}
	err = l.machine.Do(func() error {
		a.started = time.Now()
		return cmd.Start()
	})
	if err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	go func() { a.ended <- cmd.Wait() }()
	l.agent = a
	return nil
}

// stop ends the agent the way a rollout does.
func (a *agent) stop(ctx context.Context) error {
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping the agent: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	select {
	case err := <-a.ended:
		if err != nil {
			return fmt.Errorf("stopping the agent: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stopping the agent: %w", ctx.Err())
	}
}

// cpu is the CPU time that the agent has used.
func (a *agent) cpu() (time.Duration, error) { return process(a.cmd.Process.Pid).cpu() }

// peakMemory is the most resident memory that the agent ever had, in MiB.
func (a *agent) peakMemory() (float64, error) { return process(a.cmd.Process.Pid).peakMemory() }

// logTail is the end of the agent's log, for an error message.
func (a *agent) logTail() string {
	content, err := os.ReadFile(a.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
