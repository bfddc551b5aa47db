package dataplane

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

// ipv6Env says what a test's machine has of IPv6. A kernel that was booted with ipv6.disable=1 needs no saying.
const ipv6Env = "PLAINROUTE_TEST_IPV6"

// ipv6Disabled switches IPv6 off by disable_ipv6=1 on all devices and for new ones: the kernel has the family, and
// nothing bears an address of it.
const ipv6Disabled = "disabled"

// switchIPv6 settles what the machine has of IPv6. It comes before the first device.
func (m *machine) switchIPv6() {
	m.t.Helper()
	m.ipv6 = !lacksIPv6() && os.Getenv(ipv6Env) == ""
	if os.Getenv(ipv6Env) == ipv6Disabled {
		for _, dev := range []string{"all", "default"} {
			m.sysctl("net/ipv6/conf/"+dev+"/disable_ipv6", "1")
		}
	}
}

// stated are the Nodes as a cluster has them on such a machine: where IPv6 is switched off, our own Node states an
// InternalIP of IPv4 alone.
func (m *machine) stated(all []*topology.Node) []*topology.Node {
	if m.ipv6 || len(all) == 0 {
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

// The kernel tier passes on a host with IPv6 switched off. Without any, ipv6.disable=1, it takes another boot.
func TestWithoutIPv6(t *testing.T) {
	if os.Getenv(ipv6Env) != "" || testing.Short() {
		t.Skip("is run by itself, or takes too long")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", slices.Concat(os.Args[1:], []string{"-test.short", "-test.v", "-test.run=.", "-rapid.checks=20"})...)
	cmd.Env = append(os.Environ(), ipv6Env+"="+ipv6Disabled)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	passed, skipped := bytes.Count(out, []byte("\n--- PASS")), bytes.Count(out, []byte("\n--- SKIP"))
	t.Logf("%d passed, %d skipped", passed, skipped)
	if passed < 2*skipped {
		t.Errorf("%d passed, %d skipped: too few", passed, skipped)
	}
}
