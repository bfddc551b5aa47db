package nodelab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Router is an agent in router mode on the machine between the LANs, which is not a Node.
type Router struct {
	agent *process
	log   string
}

// StartRouter starts it with the one capability that its systemd unit has. It doesn't wait.
func (c *Cluster) StartRouter(args ...string) (*Router, error) {
	router := &Router{log: filepath.Join(c.config.Dir, "router.log")}
	log, err := os.OpenFile(router.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the router's log: %w", err)
	}
	defer log.Close()
	args = append([]string{
		"agent", "--mode", "router", "--kubeconfig", c.kubeconfig(AgentUser), "--service-cidr", serviceRange,
		"--cluster-cidr", PodRange4.String() + "," + PodRange6.String(), "--run-dir", filepath.Join(c.config.Dir, "router"),
		"--listen", fmt.Sprintf("127.0.0.1:%d", agentPort),
	}, args...)
	cmd := exec.CommandContext(context.Background(), c.config.Agent, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.LAN.DoForever(confineRights, cmd.Start); err != nil {
		return nil, fmt.Errorf("starting the router: %w", err)
	}
	router.agent = &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		router.agent.err = cmd.Wait()
		close(router.agent.ended)
	}()
	return router, nil
}

// Stop ends the router with a signal, and waits for its end. It may have ended already.
func (r *Router) Stop(signal syscall.Signal) error {
	_ = r.agent.cmd.Process.Signal(signal) // an error means that it has ended
	select {
	case <-r.agent.ended:
		return nil
	case <-time.After(stopLimit):
		return fmt.Errorf("stopping the router: still there %s after %s; its log: %s", stopLimit, signal, r.log)
	}
}
