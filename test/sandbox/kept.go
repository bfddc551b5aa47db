package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endLimit is how long a killed sandbox may take to be gone.
const endLimit = time.Minute

// Kept is a process of this program that outlives the one which started it, held by a descriptor, so that its number
// can't come to mean another one.
type Kept struct {
	PID int
	fd  int
}

// Note writes down a process, for Noted to find.
func Note(path string, pid int) error {
	if err := os.WriteFile(path, fmt.Appendln(nil, pid), 0o644); err != nil {
		return fmt.Errorf("noting process %d: %w", pid, err)
	}
	return nil
}

// Noted returns the process that was noted, nil if there is none any more.
func Noted(path string) (*Kept, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading a noted process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, os.Remove(path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	kept := &Kept{PID: pid, fd: fd}
	if !ours(pid) {
		kept.Close()
		return nil, os.Remove(path)
	}
	return kept, nil
}

// ours reports whether a process runs our own binary, also one that was built over since.
func ours(pid int) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	other, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(other, " (deleted)") == strings.TrimSuffix(self, " (deleted)")
}

// Close lets go of the descriptor, not of the process.
func (k *Kept) Close() { unix.Close(k.fd) }

// End kills the process: with a sandbox's PID 1 the kernel takes down all of it.
func (k *Kept) End() error {
	if err := unix.PidfdSendSignal(k.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending process %d: %w", k.PID, err)
	}
	return k.Await()
}

// Await waits for the end of the process.
func (k *Kept) Await() error {
	for deadline := time.Now().Add(endLimit); ; {
		left := time.Until(deadline).Milliseconds()
		ended, err := unix.Poll([]unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}, int(max(left, 0)))
		switch {
		case ended > 0:
			return nil
		case err == nil || !errors.Is(err, unix.EINTR):
			return fmt.Errorf("waiting for the end of process %d: %w", k.PID, errors.Join(err, os.ErrDeadlineExceeded))
		}
	}
}
