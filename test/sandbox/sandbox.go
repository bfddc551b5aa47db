// Package sandbox runs the calling program a second time inside Linux namespaces of its own, so that whatever it
// makes there (processes, mounts, network namespaces, files below /run) can't outlive it.
//
//	the program as started ("host")      waits, passes signals on, holds the lifeline
//	└── PID 1 of the sandbox ("first")   mounts, reaps, ends when the lifeline is cut
//	    └── the program again (inside)   does the work
//
// Nothing has to be undone: when PID 1 ends, for any reason, the kernel ends every process of the sandbox, and
// with the last process go its mounts and its network namespaces. The lifeline is a pipe: kill -9 of the outermost
// process closes it, which is the only notice that such an end gives.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNotPermitted is returned when this machine or user may not make namespaces; tests skip on it.
var ErrNotPermitted = errors.New("this machine allows making namespaces to root with CAP_SYS_ADMIN only")

// stageVariable contains which of the three stages a copy of the program is.
const stageVariable = "PLAINROUTE_SANDBOX_STAGE"

// filesVariable contains how many files are passed.
const filesVariable = "PLAINROUTE_SANDBOX_FILES"

const (
	stageFirst  = "first"
	stageInside = "inside"
)

// The messages of the two pipes, a byte each.
const (
	// kept reports, from inside, that the sandbox shall stay, and permits it to PID 1.
	kept = 'k'
	// refused reports, from PID 1, that the kernel has given it namespaces, and no rights in them.
	refused = 'r'
)

// Outside reports whether this is the host process: the one whose process ids are those of the machine.
func Outside() bool { return os.Getenv(stageVariable) == "" }

// Box is the sandbox as seen from inside.
type Box struct {
	// Files are those that were passed to Enter in the host process.
	Files []*os.File

	status *os.File
}

// Enter runs the program again in a sandbox and returns three times: in the host process and in PID 1 with a nil Box
// and the exit code that the process has to end with, and inside with a Box. It has to be called before the program
// does anything else, from main or TestMain.
//
// onKept is called in the host process, with PID 1's process id as the host sees it, when the program inside has
// called Keep. It may be nil.
//
// files, of the host process, are open inside too, and in PID 1 for as long as it lives: sockets of
// the host's network, and pipes by which another process sees the end of the sandbox.
func Enter(onKept func(pid int) error, files ...*os.File) (box *Box, code int, err error) {
	switch os.Getenv(stageVariable) {
	case stageInside:
		box, err = settle()
	case stageFirst:
		code, err = first()
	default:
		code, err = host(onKept, files)
	}
	if err != nil && code == 0 {
		code = 1
	}
	return box, code, err
}

// settle is Enter inside: it hides the sandbox from the processes started from here.
func settle() (*Box, error) {
	unix.CloseOnExec(statusFD)
	box := &Box{status: os.NewFile(statusFD, "status")}
	for i := range passed() {
		unix.CloseOnExec(insideFD + i)
		box.Files = append(box.Files, os.NewFile(uintptr(insideFD+i), "passed"))
	}
	for _, name := range []string{stageVariable, filesVariable} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("clearing %s: %w", name, err)
		}
	}
	return box, nil
}

// Keep lets the host process return with exit code 0 while the sandbox stays up, detached: this process has no
// standard output any more, and ends only when it returns or PID 1 is killed.
func (b *Box) Keep() error {
	if _, err := b.status.Write([]byte{kept}); err != nil {
		return fmt.Errorf("reporting to the host process that the sandbox stays: %w", err)
	}
	return silence()
}

// silence lets go of the terminal or pipe that the host process was started with: `make demo | tee
// log` ends only when no process holds the pipe's other end.
func silence() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", os.DevNull, err)
	}
	defer null.Close()
	for _, fd := range []int{unix.Stdout, unix.Stderr} {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("detaching descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// host starts PID 1 and waits until it ends or the sandbox has to stay.
func host(onKept func(pid int) error, files []*os.File) (int, error) {
	lifelineEnd, lifeline, err := os.Pipe()
	if err != nil {
		return 1, fmt.Errorf("making the lifeline: %w", err)
	}
	defer lifeline.Close()
	status, statusEnd, err := os.Pipe()
	if err != nil {
		return 1, fmt.Errorf("making the status pipe: %w", err)
	}
	cmd := command(lifelineEnd, statusEnd, files)
	if err := cmd.Start(); err != nil {
		return 1, startError(err)
	}
	lifelineEnd.Close()
	statusEnd.Close()
	defer passSignals(cmd.Process)()
	switch message := read(status); message {
	case kept:
	case refused:
		return 1, errors.Join(ErrNotPermitted, cmd.Wait())
	default:
		return exitCode(cmd.Wait())
	}
	if _, err := lifeline.Write([]byte{kept}); err != nil {
		return 1, fmt.Errorf("letting go of the sandbox: %w", err)
	}
	if onKept == nil {
		return 0, nil
	}
	return 0, onKept(cmd.Process.Pid)
}

// command is this program once more, as PID 1 of new namespaces and in a session of its own: Ctrl-C reaches the host
// process alone, which passes it on.
func command(lifeline, status *os.File, files []*os.File) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageVariable+"="+stageFirst, filesVariable+"="+strconv.Itoa(len(files)))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = append([]*os.File{status, lifeline}, files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	if os.Geteuid() != 0 {
		becomeRoot(cmd.SysProcAttr)
	}
	return cmd
}

// becomeRoot adds a user namespace in which this user is root: where the machine allows that, no
// test needs root.
func becomeRoot(attributes *syscall.SysProcAttr) {
	attributes.Cloneflags |= unix.CLONE_NEWUSER
	attributes.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	attributes.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
}

// startError separates refusals from other errors. clone(2): EPERM comes from missing rights and
// from seccomp, ENOSPC and EUSERS from user.max_*_namespaces, EINVAL from a kernel without them.
func startError(err error) error {
	for _, refusal := range []error{unix.EPERM, unix.ENOSPC, unix.EUSERS, unix.EINVAL} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("%w: %w", ErrNotPermitted, err)
		}
	}
	return fmt.Errorf("starting the sandbox: %w", err)
}

// read blocks for the pipe's one message; it is 0 when every process that could send one has ended.
func read(pipe io.Reader) byte {
	message := make([]byte, 1)
	if _, err := io.ReadFull(pipe, message); err != nil {
		return 0
	}
	return message[0]
}

// passSignals hands signals on to PID 1; at the second Ctrl-C it is killed, and the kernel clears up.
func passSignals(process *os.Process) (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP)
	go func() {
		for seen := 0; ; seen++ {
			received := <-signals
			if seen > 0 {
				received = unix.SIGKILL
			}
			// The process may have ended meanwhile, and then no process is left to receive it.
			_ = process.Signal(received)
		}
	}()
	return func() { signal.Stop(signals) }
}

// exitCode returns the exit code that a shell would report for the result of Wait: 128 and the
// signal's number after a signal.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 1, fmt.Errorf("waiting for the sandbox: %w", err)
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if ok && status.Signal() > 0 {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
