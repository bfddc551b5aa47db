package apiserver

import (
	"bytes"
	"context"
	"errors"
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

	"github.com/plainroute/plainroute/test/testutil"
)

const program = "kube-apiserver"

// Kill ends the API server as kill -9 does; etcd stays. Restart starts it again.
func (p *ControlPlane) Kill() error {
	pid, command, err := findChild(program, p.port())
	if err != nil {
		return err
	}
	// envtest made most of the command line.
	p.command = command
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("killing the API server: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return testutil.Poll(ctx, pollInterval, func() error {
		if _, _, err := findChild(program, p.port()); err == nil {
			return fmt.Errorf("killing the API server: process %d is still there", pid)
		}
		return nil
	})
}

// port is the argument that tells our API server from another one of this process.
func (p *ControlPlane) port() string { return "--secure-port=" + p.plane.APIServer.SecureServing.Port }

// Running reports whether this process has an API server.
func Running() bool {
	_, _, err := findChild(program, "")
	return err == nil
}

// Pause stops the API server without ending it: its connections stay and nothing answers on them.
func (p *ControlPlane) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets a paused API server go on.
func (p *ControlPlane) Resume() error { return p.signal(syscall.SIGCONT) }

// Restart starts a killed API server with the port, the certificates and the etcd that it had. It doesn't wait: Await does.
func (p *ControlPlane) Restart() error {
	if p.command == nil {
		return errors.New("starting the API server: it was not killed")
	}
	cmd := exec.CommandContext(context.Background(), p.command[0], p.command[1:]...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the API server: %w", err)
	}
	ended := make(chan struct{})
	p.restarted, p.ended = cmd.Process, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	return nil
}

// Await waits until the API server is ready.
func (p *ControlPlane) Await(ctx context.Context) error {
	err := testutil.Poll(ctx, pollInterval, func() error {
		return p.Client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return fmt.Errorf("waiting for the API server: %w", err)
	}
	return nil
}

// pollInterval is shorter than anything that a test measures.
const pollInterval = 20 * time.Millisecond

func (p *ControlPlane) signal(signal syscall.Signal) error {
	pid, _, err := findChild(program, p.port())
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, signal); err != nil {
		return fmt.Errorf("sending the API server %s: %w", signal, err)
	}
	return nil
}

// findChild looks for a living process that we started, by its program's name and an argument, if any, and reads its
// command line.
func findChild(program, argument string) (pid int, command []string, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, nil, fmt.Errorf("looking for %s: %w", program, err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !isOurs(pid) {
			continue
		}
		// Empty for a process that has ended and is not waited for yet.
		content, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || len(content) == 0 {
			continue
		}
		command := strings.Split(string(bytes.TrimSuffix(content, []byte{0})), "\x00")
		if filepath.Base(command[0]) == program && (argument == "" || slices.Contains(command, argument)) {
			return pid, command, nil
		}
	}
	return 0, nil, fmt.Errorf("looking for %s: no such child process", program)
}

// isOurs reports whether a process is a child of this one.
func isOurs(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && slices.Contains(strings.Split(string(status), "\n"), fmt.Sprintf("PPid:\t%d", os.Getpid()))
}
