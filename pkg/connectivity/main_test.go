package connectivity

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	rtnl "github.com/vishvananda/netlink"
)

// insideEnv tells the tests that they are in a network namespace of their own.
const insideEnv = "PLAINROUTE_TEST_INSIDE"

// TestMain moves all tests to a network namespace of their own, whose loopback has the MTU of an Ethernet.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		if err := loopback(); err != nil {
			fmt.Fprintln(os.Stderr, "check:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "check: no network namespaces can be made here, so its tests can't run:", err)
		os.Exit(1)
	}
}

func loopback() error {
	lo, err := rtnl.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(rtnl.LinkSetMTU(lo, 1500), rtnl.LinkSetUp(lo))
}
