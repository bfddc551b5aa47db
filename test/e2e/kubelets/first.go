package kubelets

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// first is the life of a node's PID 1.
func first(path string) error {
	p, err := readPlan(path)
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(p.Name)); err != nil {
		return fmt.Errorf("setting the host's name: %w", err)
	}
	if err := makeRoot(p); err != nil {
		return fmt.Errorf("making the root of the node: %w", err)
	}
	if err := unix.Close(startingFD); err != nil {
		return fmt.Errorf("reporting that the root is made: %w", err)
	}
	os.Clearenv() // the sandbox's TMPDIR, for one, is not here
	for name, value := range map[string]string{"PATH": nodePath, "HOME": "/root"} {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	s := &supervisor{name: p.Name, waiting: map[int]chan syscall.WaitStatus{}, exited: make(chan error, 4)}
	go s.reap()
	if err := s.serve("containerd", "containerd", "--config", "/etc/containerd.toml"); err != nil {
		return err
	}
	for _, ready := range []func() error{func() error { return answers(containerdSocket) }, reachAPI} {
		if err := poll(ready); err != nil {
			return err
		}
	}
	if err := s.serve("kubelet", "kubelet", "--config=/etc/kubelet.yaml", "--kubeconfig="+nodePKI+"/"+p.Name+".kubeconfig",
		"--hostname-override="+p.Name, fmt.Sprintf("--node-ip=%s,%s", p.Addresses[0], p.Addresses[1]),
		"--tls-cert-file="+nodePKI+"/serving-"+p.Name+".crt", "--tls-private-key-file="+nodePKI+"/serving-"+p.Name+".key"); err != nil {
		return err
	}
	if err := s.serve("kube-proxy", "kube-proxy", "--config=/etc/kube-proxy.yaml", "--hostname-override="+p.Name); err != nil {
		return err
	}
	return <-s.exited
}

// reachAPI spares the kubelet its own way of waiting for the API server, which tries less and less often.
func reachAPI() error {
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(APIServer()))
	if err != nil {
		return fmt.Errorf("reaching the API server: %w", err)
	}
	return conn.Close()
}

// supervisor starts processes and reaps all processes that the kernel hands to PID 1: an exec.Cmd's
// Wait and the reaping would take each other's children.
type supervisor struct {
	name   string
	exited chan error

	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
}

// start starts a process that logs to a file.
func (s *supervisor) start(log string, args ...string) (chan syscall.WaitStatus, error) {
	out, err := os.OpenFile(filepath.Join(nodeLogs, s.name+"-"+log+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	path, err := lookPath(args[0])
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{uintptr(unix.Stdin), out.Fd(), out.Fd()}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", args[0], err)
	}
	status := make(chan syscall.WaitStatus, 1)
	s.waiting[pid] = status
	return status, nil
}

func lookPath(name string) (string, error) {
	for _, dir := range filepath.SplitList(nodePath) {
		path := filepath.Join(dir, name)
		if at, err := os.Stat(path); err == nil && at.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s in %s", name, nodePath)
}

const (
	// startPause and startTries are for a component that ends: some 20 s.
	startPause = 200 * time.Millisecond
	startTries = 100
)

// serve starts a component that has to run as long as the node. One that ends is started again, as on any machine: a
// kubelet doesn't wait for a container runtime that is still recovering from a reboot.
func (s *supervisor) serve(name string, args ...string) error {
	status, err := s.start(name, args...)
	if err != nil {
		return err
	}
	go func() {
		var ended syscall.WaitStatus
		for range startTries {
			ended = <-status
			time.Sleep(startPause)
			if status, err = s.start(name, args...); err != nil {
				s.exited <- err
				return
			}
		}
		s.exited <- fmt.Errorf("%s has ended repeatedly: %+v", name, ended)
	}()
	return nil
}

func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if err != nil {
			continue
		}
		s.mu.Lock()
		if waiting := s.waiting[pid]; waiting != nil {
			delete(s.waiting, pid)
			waiting <- status
		}
		s.mu.Unlock()
	}
}
