package inspect

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	rtnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
	"github.com/plainroute/plainroute/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nil)) }

// A machine is a network namespace of a test's own: eth0 is 192.168.1.11 with a default route.
type machine struct {
	t    *testing.T
	ipv6 bool
	nl   *rtnl.Handle
	eth0 rtnl.Link
}

// newMachine moves the test to a new namespace. Its thread ends with the test.
func newMachine(t *testing.T) *machine {
	t.Helper()
	testutil.NeedSandbox(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("can't make network namespaces here: %v", err)
	}
	m := &machine{t: t}
	m.setIPv6()
	var err error
	m.nl, err = rtnl.NewHandle(unix.NETLINK_ROUTE)
	m.must(err)
	t.Cleanup(m.nl.Close)
	m.up("lo")
	m.addVeth("eth0", 1500)
	m.eth0 = m.link("eth0")
	m.addr("eth0", "192.168.1.11/24")
	if m.ipv6 {
		m.addr("eth0", "fd00:192:168:1::11/64")
	}
	m.must(m.nl.RouteAdd(m.foreign("0.0.0.0/0", "192.168.1.1", "eth0", 0, 4)))
	return m
}

// ipv6Env runs the tests without IPv6: "disabled" by disable_ipv6=1, "unknown" as on a kernel without the family.
const ipv6Env = "PLAINROUTE_TEST_IPV6"

func (m *machine) setIPv6() {
	m.t.Helper()
	mode := os.Getenv(ipv6Env)
	_, err := os.Stat("/proc/net/if_inet6")
	m.ipv6 = err == nil && mode == ""
	if mode == "" {
		return
	}
	for _, dev := range []string{"all", "default"} {
		m.sysctl("net/ipv6/conf/"+dev+"/disable_ipv6", "1")
	}
	if mode == "unknown" {
		seccomp.RefuseSockets(m.t, unix.EAFNOSUPPORT, unix.AF_INET6)
	}
}

func (m *machine) needIPv6() {
	m.t.Helper()
	if !m.ipv6 {
		m.t.Skip("this machine has no IPv6")
	}
}

// The tests pass on a host with IPv6 disabled, and on one without it.
func TestWithoutIPv6(t *testing.T) {
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil || os.Getenv(ipv6Env) != "" {
		t.Skip("this is a host without IPv6, or part of this test")
	}
	for _, mode := range []string{"disabled", "unknown"} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", slices.Concat(os.Args[1:], []string{"-test.v", "-test.run=.", "-test.count=1"})...)
			cmd.Env = append(os.Environ(), ipv6Env+"="+mode)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			passed, skipped := strings.Count(string(out), "\n--- PASS"), strings.Count(string(out), "\n--- SKIP")
			if t.Logf("%d passed, %d skipped", passed, skipped); passed < 2*skipped {
				t.Error("too few passed")
			}
		})
	}
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// inspector returns an Inspector of the machine.
func (m *machine) inspector() *Inspector {
	m.t.Helper()
	i, err := New()
	m.must(err)
	m.t.Cleanup(func() { m.must(i.Close()) })
	return i
}

// addVeth adds a device whose peer, in the same namespace, is up too.
func (m *machine) addVeth(name string, mtu int) {
	m.t.Helper()
	m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: name, MTU: mtu}, PeerName: name + "-peer"}))
	if m.ipv6 {
		m.sysctl("net/ipv6/conf/"+name+"/accept_dad", "0")
	}
	m.up(name + "-peer")
	m.up(name)
}

func (m *machine) addBridge(name string) {
	m.t.Helper()
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: name}}))
	m.up(name)
}

func (m *machine) link(name string) rtnl.Link {
	m.t.Helper()
	l, err := m.nl.LinkByName(name)
	m.must(err)
	return l
}

func (m *machine) up(name string) { m.t.Helper(); m.must(m.nl.LinkSetUp(m.link(name))) }

func (m *machine) addr(link, prefix string) {
	m.t.Helper()
	a, err := rtnl.ParseAddr(prefix)
	m.must(err)
	a.Flags = unix.IFA_F_NODAD
	m.must(m.nl.AddrAdd(m.link(link), a))
}

func (m *machine) sysctl(path, value string) {
	m.t.Helper()
	m.must(os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0o644))
}

// foreign returns a route of another program.
func (m *machine) foreign(dst, via, dev string, metric, protocol int) *rtnl.Route {
	r := &rtnl.Route{LinkIndex: m.link(dev).Attrs().Index, Gw: net.ParseIP(via), Priority: metric, Protocol: rtnl.RouteProtocol(protocol)}
	_, r.Dst, _ = net.ParseCIDR(dst)
	return r
}

// newNamespace returns another network namespace, which ends with the test.
func (m *machine) newNamespace() (netns.NsHandle, *rtnl.Handle) {
	m.t.Helper()
	here, err := netns.Get()
	m.must(err)
	defer here.Close()
	there, err := netns.New()
	m.must(err)
	if m.ipv6 {
		m.sysctl("net/ipv6/conf/default/keep_addr_on_down", "1") // set by the bridge plugin
	}
	m.must(netns.Set(here))
	nl, err := rtnl.NewHandleAt(there, unix.NETLINK_ROUTE)
	m.must(err)
	m.t.Cleanup(func() {
		nl.Close()
		m.must(there.Close())
	})
	return there, nl
}

// A pod is a network namespace with a device eth0, whose peer is a port of the pods' bridge.
type pod struct {
	nl    *rtnl.Handle
	port  string
	addrs []netip.Addr
}

// attach adds a pod with the given addresses; the IPv6 ones are left out where the machine has none.
func (m *machine) attach(port string, addrs ...string) *pod {
	m.t.Helper()
	namespace, nl := m.newNamespace()
	p := &pod{nl: nl, port: port}
	m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: port}, PeerName: "pod-eth0"}))
	m.must(m.nl.LinkSetNsFd(m.link("pod-eth0"), int(namespace)))
	eth0, err := nl.LinkByName("pod-eth0")
	m.must(err)
	m.must(nl.LinkSetName(eth0, "eth0"))
	m.must(nl.LinkSetUp(eth0))
	for _, s := range addrs {
		a, err := rtnl.ParseAddr(s)
		m.must(err)
		if addr, _ := netip.AddrFromSlice(a.IP); addr.Unmap().Is4() || m.ipv6 {
			a.Flags = unix.IFA_F_NODAD
			m.must(nl.AddrAdd(eth0, a))
			p.addrs = append(p.addrs, addr.Unmap())
		}
	}
	m.must(m.nl.LinkSetMaster(m.link(port), m.link(topology.Bridge)))
	m.up(port)
	return p
}

// descriptors returns how many files this process has open.
func (m *machine) descriptors() int {
	m.t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	m.must(err)
	return len(entries)
}

func (m *machine) nft4test() *nftables.Conn {
	c, err := nftables.New()
	m.must(err)
	return c
}
