package kubelets

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The program is started again under more names, two of them for each node:
//
//	launchName   joins the node's cgroups, and starts
//	firstName    PID 1 of the node, in namespaces of its own: makes the root, starts the components, reaps
const (
	launchName = "node-launch"
	firstName  = "node-init"
	// pidFile holds the number of a PID 1, as the sandbox sees it, when its root is made.
	pidFile = "pid"
	// PID 1 closes startingFD once it runs.
	startingFD = 3
)

// Stage runs this program's part in a node, if it was started for one; the program has to end then. It has to be called
// before main does anything else.
func Stage() (played bool, err error) {
	switch os.Args[0] {
	case launchName:
		err = launch(os.Args[1])
	case firstName:
		err = first(os.Args[1])
	case janitorName:
		err = clean(os.Args[1:])
	default:
		return false, nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", os.Args[0], err)
	}
	return true, err
}

func readPlan(path string) (plan, error) {
	var p plan
	content, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(content, &p); err != nil {
		return p, fmt.Errorf("reading %s: %w", path, err)
	}
	return p, nil
}

// launch runs as a program of its own, not in its caller: a cgroup namespace has its root where its
// maker is when it makes it (cgroup_namespaces(7)).
func launch(path string) error {
	p, err := readPlan(path)
	if err != nil {
		return err
	}
	if err := join(p.Cgroups); err != nil {
		return err
	}
	started, starting, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	runtime.LockOSThread() // or the child's death signal would come with the end of a thread
	cmd := exec.Command("/proc/self/exe", path)
	cmd.Args[0] = firstName
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{starting}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making the namespaces: %w", err)
	}
	if unified() { // we must not be in the way of the node's controllers
		if err := joinLeaf(filepath.Dir(p.Cgroups[0]), launchName); err != nil {
			return errors.Join(err, cmd.Process.Kill())
		}
	}
	starting.Close()
	if _, err := io.Copy(io.Discard, started); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	if err := os.WriteFile(filepath.Join(p.Dir, pidFile), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	return cmd.Wait()
}
