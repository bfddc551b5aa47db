package dataplane

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// ipv6Env describes IPv6 on a test's machine. A kernel that was booted with ipv6.disable=1 is
// detected.
const ipv6Env = "PLAINROUTE_TEST_IPV6"

const (
	// ipv6Disabled switches IPv6 off by disable_ipv6=1 on all devices and for new ones: the kernel
	// has the family, and no device has an address of it.
	ipv6Disabled = "disabled"
	// ipv6Unknown is as near as this kernel comes to one that does not know the family: no socket
	// of it, no setting, and routes are asked for of a family that it does not know, to which it
	// answers with those of all others (rtnl_dump_all of net/core/rtnetlink.c).
	ipv6Unknown = "unknown"
)

// unknownFamily is AF_X25, which Debian's kernels and most others have no routes of.
const unknownFamily = unix.AF_X25

// switchIPv6 settles what the machine has of IPv6. It comes before the first device.
func (m *machine) switchIPv6() {
	m.t.Helper()
	mode := os.Getenv(ipv6Env)
	m.ipv6 = !refusesIPv6() && mode == ""
	if mode == "" {
		return
	}
	for _, dev := range []string{"all", "default"} {
		m.sysctl("net/ipv6/conf/"+dev+"/disable_ipv6", "1")
	}
	if mode == ipv6Unknown {
		seccomp.RefuseSockets(m.t, unix.EAFNOSUPPORT, unix.AF_INET6)
	}
}

// procSys is the root of settings; without IPv6 it has none of IPv6.
func (m *machine) procSys() string {
	m.t.Helper()
	if os.Getenv(ipv6Env) != ipv6Unknown {
		return "/proc/sys"
	}
	root := filepath.Join(m.dir, "sys")
	m.must(os.MkdirAll(filepath.Join(root, "net"), 0o755))
	for _, part := range []string{"bridge", "ipv4"} {
		m.must(os.Symlink(filepath.Join("/proc/sys/net", part), filepath.Join(root, "net", part)))
	}
	return root
}

// askForNoIPv6 has routes of an unknown family be asked for in place of IPv6.
func (m *machine) askForNoIPv6() {
	if os.Getenv(ipv6Env) == ipv6Unknown {
		m.Kernel.families = []uint8{unix.AF_INET, unknownFamily}
	}
}

// stated are the Nodes as a cluster has them on such a machine: where IPv6 is switched off, our own
// Node states an InternalIP of IPv4 alone. Where there is no IPv6 at all, it may state one all the
// same.
func (m *machine) stated(all []*topology.Node) []*topology.Node {
	if os.Getenv(ipv6Env) != ipv6Disabled || len(all) == 0 {
		return all
	}
	own := *all[0]
	own.Addrs = own.Addrs[:min(1, len(own.Addrs))]
	return append([]*topology.Node{&own}, all[1:]...)
}

// families counts those that the machine serves.
func (m *machine) families() int {
	if m.ipv6 {
		return 2
	}
	return 1
}

// known leaves out the IPv6 addresses that the machine can't have.
func (m *machine) known(addrs ...string) []string {
	return slices.DeleteFunc(addrs, func(a string) bool { return !m.ipv6 && strings.Contains(a, ":") })
}

// needIPv6 skips what shows nothing without it.
func (m *machine) needIPv6() {
	m.t.Helper()
	if !m.ipv6 {
		m.t.Skip("shows something of IPv6, which this machine has not")
	}
}

// The kernel tier passes on a host with IPv6 switched off, and on one without it. The third way,
// ipv6.disable=1, takes another boot.
func TestWithoutIPv6(t *testing.T) {
	if os.Getenv(ipv6Env) != "" || refusesIPv6() || testing.Short() {
		t.Skip("is run by itself, or takes too long")
	}
	for _, mode := range []string{ipv6Disabled, ipv6Unknown} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", slices.Concat(os.Args[1:], []string{"-test.short", "-test.v", "-test.run=.", "-test.count=1", "-rapid.checks=10"})...)
			cmd.Env = append(os.Environ(), ipv6Env+"="+mode)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			passed, skipped := bytes.Count(out, []byte("\n--- PASS")), bytes.Count(out, []byte("\n--- SKIP"))
			t.Logf("%d passed, %d skipped", passed, skipped)
			if passed < 2*skipped {
				t.Errorf("%d passed, %d skipped: too few", passed, skipped)
			}
		})
	}
}
