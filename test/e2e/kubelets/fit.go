package kubelets

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// inotifyPerNode is how many inotify instances a node's kubelet, containerd and kube-proxy were seen to hold, and what
// the product and a few pods may.
const inotifyPerNode = 14

// Fit returns what a machine lacks for a cluster of so many nodes, as ErrNotHere. Up finds the
// rest, which takes a try.
func Fit(nodes int) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: it takes root", ErrNotHere)
	}
	if _, err := exec.LookPath("nsenter"); err != nil {
		return fmt.Errorf("%w: %w", ErrNotHere, err)
	}
	// Without it kube-proxy does not see packets from pod to pod on one bridge, and they don't reach Services of each
	// other's. Loading a module is this machine's business.
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		return fmt.Errorf("%w: the kernel module br_netfilter is not loaded (modprobe br_netfilter)", ErrNotHere)
	}
	if _, err := parents(); err != nil {
		return err
	}
	return inotify(nodes * inotifyPerNode)
}

// TryCgroups makes a node's cgroups, inside a sandbox whose janitor removes them.
func TryCgroups(name string) error {
	_, err := makeCgroups(name + "/try")
	return err
}

// inotify takes as many instances as will be needed, for a moment, because other programs' instances count too.
func inotify(count int) error {
	var taken []int
	defer func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
	}()
	for range count {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if errors.Is(err, unix.EMFILE) {
			return fmt.Errorf("%w: it takes %d more inotify instances (sysctl fs.inotify.max_user_instances)", ErrNotHere, count)
		}
		if err != nil {
			return fmt.Errorf("making an inotify instance: %w", err)
		}
		taken = append(taken, fd)
	}
	return nil
}
