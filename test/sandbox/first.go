package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Descriptors that command passes to PID 1; it passes the first on to the program inside.
const (
	statusFD   = 3
	lifelineFD = 4
	firstFD    = 5
)

// insideFD is the first of the passed files in the program inside.
const insideFD = 4

// passed is how many files were given to Enter.
func passed() int {
	count, err := strconv.Atoi(os.Getenv(filesVariable))
	if err != nil {
		return 0
	}
	return count
}

// first is the life of PID 1: it prepares the mounts, starts the program inside and reaps every orphan until that
// program has ended. An exec.Cmd couldn't do it, its Wait and the reaping would take each other's children.
func first() (int, error) {
	err := mountAll()
	if errors.Is(err, unix.EPERM) {
		_, err = unix.Write(statusFD, []byte{refused})
		return 1, err
	}
	if err != nil {
		return 1, err
	}
	pid, err := startInside()
	if err != nil {
		return 1, err
	}
	if err := unix.Close(statusFD); err != nil {
		return 1, fmt.Errorf("closing the status pipe: %w", err)
	}
	if err := silence(); err != nil {
		return 1, err
	}
	go mindLifeline(os.NewFile(lifelineFD, "lifeline"), pid)
	go relaySignals(pid)
	return reap(pid)
}

func startInside() (int, error) {
	unix.CloseOnExec(lifelineFD)
	if err := os.Setenv(stageVariable, stageInside); err != nil {
		return 0, fmt.Errorf("setting %s: %w", stageVariable, err)
	}
	files := []uintptr{uintptr(unix.Stdin), uintptr(unix.Stdout), uintptr(unix.Stderr), statusFD}
	for i := range passed() {
		files = append(files, uintptr(firstFD+i))
	}
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env: append(os.Environ(), "TMPDIR="+tempDir, "XDG_CACHE_HOME="+cacheDir), Files: files,
	})
	if err != nil {
		return 0, fmt.Errorf("starting the program inside the sandbox: %w", err)
	}
	return pid, nil
}

// mindLifeline ends the program inside, and so PID 1 and the sandbox, when the host process is gone without having let
// go.
func mindLifeline(lifeline *os.File, inside int) {
	if read(lifeline) != kept {
		// Gone already is fine: reap is about to see it.
		_ = unix.Kill(inside, unix.SIGKILL)
	}
}

func relaySignals(pid int) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP)
	for received := range signals {
		if number, ok := received.(syscall.Signal); ok {
			// Gone already is fine: reap is about to see it.
			_ = unix.Kill(pid, number)
		}
	}
}

// reap waits for all children, ours and those that the kernel hands to PID 1, and returns inside's exit code.
func reap(inside int) (int, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("waiting for the program inside the sandbox: %w", err)
		case pid == inside && status.Exited():
			return status.ExitStatus(), nil
		case pid == inside && status.Signal() > 0:
			return 128 + int(status.Signal()), nil
		}
	}
}
