package dataplane

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A namespace is the network namespace of the thread that opened it. A socket stays in the
// namespace in which it was made, so its replacement has to be made there too, on any thread.
type namespace struct{ file *os.File }

func openNamespace() (*namespace, error) {
	// /proc/self has the namespace of the process's first thread.
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	return &namespace{file}, nil
}

func (n *namespace) close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// do calls f on a thread in the namespace. In the agent all threads are in it; to enter it from
// another namespace takes CAP_SYS_ADMIN.
func (n *namespace) do(f func() error) error {
	runtime.LockOSThread()
	here, err := openNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer here.file.Close()
	if err := n.enter(here); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	back := here.enter(n)
	if back == nil { // else the thread stays locked, so that it ends with its goroutine
		runtime.UnlockOSThread()
	}
	return errors.Join(err, back)
}

// enter moves this thread into the namespace if it is in another one.
func (n *namespace) enter(from *namespace) error {
	to, err := n.file.Stat()
	at, errAt := from.file.Stat()
	if err = errors.Join(err, errAt); err == nil && !os.SameFile(to, at) {
		err = unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	return nil
}
