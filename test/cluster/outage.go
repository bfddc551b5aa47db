package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const apiServer = "kube-apiserver"

// KillAPIServer ends the API server as kill -9 does; etcd stays. StartAPIServer starts it again.
func (c *Cluster) KillAPIServer() error { return c.plane.kill() }

// APIServerRunning reports whether the API server's process is there.
func (c *Cluster) APIServerRunning() bool {
	_, _, err := findChild(apiServer)
	return err == nil
}

// PauseAPIServer stops the API server without ending it: its connections stay and nobody answers on them.
func (c *Cluster) PauseAPIServer() error { return c.plane.signal(syscall.SIGSTOP) }

// ResumeAPIServer lets a paused API server go on.
func (c *Cluster) ResumeAPIServer() error { return c.plane.signal(syscall.SIGCONT) }

// StartAPIServer starts a killed API server with the port, the certificates and the etcd that it had. It doesn't wait:
// AwaitAPIServer does.
func (c *Cluster) StartAPIServer() error { return c.plane.restart() }

// AwaitAPIServer waits until the API server is ready.
func (c *Cluster) AwaitAPIServer(ctx context.Context) error {
	for {
		body := c.plane.client.RESTClient().Get().AbsPath("/readyz").Do(ctx)
		if body.Error() == nil {
			return nil
		}
		if err := pause(ctx, readyInterval); err != nil {
			return fmt.Errorf("waiting for the API server: %w: %w", err, body.Error())
		}
	}
}

func (p *controlPlane) signal(signal syscall.Signal) error {
	pid, _, err := findChild(apiServer)
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, signal); err != nil {
		return fmt.Errorf("sending the API server %s: %w", signal, err)
	}
	return nil
}

// kill remembers the command line, of which package envtest made most.
func (p *controlPlane) kill() error {
	pid, command, err := findChild(apiServer)
	if err != nil {
		return err
	}
	p.command = command
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("killing the API server: %w", err)
	}
	for range 500 {
		if _, _, err := findChild(apiServer); err != nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("killing the API server: process %d is still there", pid)
}

func (p *controlPlane) restart() error {
	if p.command == nil {
		return fmt.Errorf("starting the API server: it was not killed")
	}
	log, err := os.OpenFile(filepath.Join(p.dir, apiServer+".log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("opening the API server's log: %w", err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), p.command[0], p.command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the API server: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// findChild looks for a living process that we started, by its program's name, and reads its command line.
func findChild(program string) (pid int, command []string, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, nil, fmt.Errorf("looking for %s: %w", program, err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !isOurs(pid) {
			continue
		}
		// Empty for one that has ended and that nobody has waited for yet.
		content, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || len(content) == 0 {
			continue
		}
		command := strings.Split(string(bytes.TrimSuffix(content, []byte{0})), "\x00")
		if filepath.Base(command[0]) == program {
			return pid, command, nil
		}
	}
	return 0, nil, fmt.Errorf("looking for %s: we have no such process", program)
}

// isOurs tells whether a process is a child of this one.
func isOurs(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && slices.Contains(strings.Split(string(status), "\n"), fmt.Sprintf("PPid:\t%d", os.Getpid()))
}
