package kubelets

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// janitorName is a third name under which the program is started: what removes the cgroups of a sandbox, however that
// ended, and does not end with it.
const janitorName = "cluster-janitor"

// cgroupPrefix begins the names of clusters' cgroups; their janitors' process ids end them.
const cgroupPrefix = "plainroute-e2e-"

// Janitor waits until all processes that hold the pipe's other end are gone, and then removes the cgroups of a cluster.
type Janitor struct {
	// Pipe has to be passed to the sandbox.
	Pipe *os.File
	cmd  *exec.Cmd
}

// StartJanitor starts one, and removes the cgroups of clusters whose janitors were killed. It has
// to be called outside of the sandbox.
func StartJanitor() (*Janitor, error) {
	above, err := parents()
	if err != nil {
		return nil, err
	}
	if err := sweep(above); err != nil {
		return nil, err
	}
	enabled, err := enabledControllers()
	if err != nil {
		return nil, err
	}
	end, pipe, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making the janitor's pipe: %w", err)
	}
	defer end.Close()
	cmd := exec.Command("/proc/self/exe", enabled...)
	cmd.Args[0] = janitorName
	cmd.ExtraFiles = []*os.File{end} // and no stream of ours: its reader would wait for the cluster's end
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the janitor: %w", err)
	}
	return &Janitor{Pipe: pipe, cmd: cmd}, nil
}

// PID is the janitor's process id.
func (j *Janitor) PID() int { return j.cmd.Process.Pid }

// Cgroup is the name of the cgroups that it will remove.
func (j *Janitor) Cgroup() string { return cgroupPrefix + strconv.Itoa(j.PID()) }

// Wait returns when all is clean. The sandbox must have ended.
func (j *Janitor) Wait() error {
	if err := errors.Join(j.Pipe.Close(), j.cmd.Wait()); err != nil {
		return fmt.Errorf("removing the cgroups %s: %w", j.Cgroup(), err)
	}
	return nil
}

// clean is the janitor's life. In version 2 those controllers were enabled in the machine's root before the cluster.
func clean(enabled []string) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	above, err := parents()
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.NewFile(3, "sandbox")); err != nil {
		return fmt.Errorf("waiting for the end of the sandbox: %w", err)
	}
	var dirs []string
	for _, dir := range above {
		dirs = append(dirs, filepath.Join(dir, cgroupPrefix+strconv.Itoa(os.Getpid())))
	}
	return errors.Join(removeCgroups(dirs), restoreControllers(enabled))
}

// enabledControllers are those of the machine's root in version 2.
func enabledControllers() ([]string, error) {
	if !unified() {
		return nil, nil
	}
	names, err := words(filepath.Join(cgroupRoot, subtreeControl))
	if err != nil {
		return nil, fmt.Errorf("reading what controllers are enabled: %w", err)
	}
	return names, nil
}

// restoreControllers disables all others again. Controllers that another cluster still needs are
// busy, and stay.
func restoreControllers(enabled []string) error {
	now, err := enabledControllers()
	if err != nil {
		return err
	}
	added := slices.DeleteFunc(now, func(name string) bool { return slices.Contains(enabled, name) })
	if err := control(cgroupRoot, "-", added); !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

// sweep removes the cgroups of clusters whose janitor has ended without having done so. Those with processes are let be.
func sweep(above []string) error {
	for _, dir := range above {
		left, err := filepath.Glob(filepath.Join(dir, cgroupPrefix+"*"))
		if err != nil {
			return fmt.Errorf("looking for cgroups that were left behind: %w", err)
		}
		for _, path := range left {
			if attended(path) || inhabited(path) {
				continue
			}
			if err := removeCgroup(path); err != nil {
				return fmt.Errorf("removing what an earlier cluster left: %w", err)
			}
		}
	}
	return nil
}

// attended reports whether the janitor of a cluster's cgroup lives.
func attended(path string) bool {
	pid := strings.TrimPrefix(filepath.Base(path), cgroupPrefix)
	line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	name, _, _ := strings.Cut(string(line), "\x00")
	return err == nil && name == janitorName
}

// inhabited reports whether there are processes in a cgroup or below it.
func inhabited(path string) bool {
	all, err := tree(path)
	return err != nil || slices.ContainsFunc(all, func(dir string) bool {
		processes, err := words(filepath.Join(dir, "cgroup.procs"))
		return err != nil || len(processes) > 0
	})
}
