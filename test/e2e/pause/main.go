// Command pause keeps a pod's namespaces open: the sandbox image of container runtimes.
package main

import (
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGINT, unix.SIGTERM)
	go reap()
	<-end
}

// reap waits for orphaned processes, as PID 1 must in pods that share their process namespace.
func reap() {
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	for range child {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}
