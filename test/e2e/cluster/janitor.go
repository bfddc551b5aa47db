package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// janitorName is a third name under which the program is started: what removes the cgroups of a sandbox, however that
// ended, and does not end with it.
const janitorName = "cluster-janitor"

// Janitor waits until all processes that hold the pipe's other end are gone, and then removes the cgroups below name.
type Janitor struct {
	// Pipe is to be passed to the sandbox.
	Pipe *os.File
	cmd  *exec.Cmd
}

// StartJanitor starts one. It has to be started outside of the sandbox.
func StartJanitor(name string) (*Janitor, error) {
	if _, err := hierarchies(); err != nil {
		return nil, err
	}
	end, pipe, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making the janitor's pipe: %w", err)
	}
	defer end.Close()
	cmd := exec.Command("/proc/self/exe", name)
	cmd.Args[0] = janitorName
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{end}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the janitor: %w", err)
	}
	return &Janitor{Pipe: pipe, cmd: cmd}, nil
}

// Wait returns when all is clean. The sandbox must have ended.
func (j *Janitor) Wait() error { return errors.Join(j.Pipe.Close(), j.cmd.Wait()) }

func clean(name string) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	if _, err := io.Copy(io.Discard, os.NewFile(3, "sandbox")); err != nil {
		return err
	}
	own, err := hierarchies()
	if err != nil {
		return err
	}
	var dirs []string
	for root, path := range own {
		dirs = append(dirs, filepath.Join(root, path, name))
	}
	return removeCgroups(dirs)
}
