package doctor

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A testbed is a network namespace with a healthy node1 in it: 192.168.1.11 on eth0, pods of
// 10.244.1.0/24, and a route to those of node2.
type testbed struct {
	*Target
	t  *testing.T
	nl *rtnl.Handle
}

func newTestbed(t *testing.T) *testbed {
	t.Helper()
	runtime.LockOSThread() // and the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("can't make network namespaces here: %v", err)
	}
	w := &testbed{t: t, Target: &Target{
		Root: t.TempDir(), ProcSys: "/proc/sys", BinDir: t.TempDir(), Bridge: topology.Bridge, Node: "node1",
		Store: cni.Store{ConfDir: t.TempDir(), RunDir: t.TempDir()},
		Report: &status.Report{Node: "node1", Host: status.Host{
			Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, Uplinks: []status.Uplink{{Name: "eth0", MTU: 1500}}, MTU: 1500,
			Addresses: []netip.Addr{netip.MustParseAddr("192.168.1.11")},
		}},
	}}
	var err error
	w.nl, err = rtnl.NewHandle()
	w.must(err)
	t.Cleanup(w.nl.Close)
	w.add(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "eth0"}, PeerName: "lan"})
	w.add(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}})
	w.address("eth0", "192.168.1.11/24")
	w.address(topology.Bridge, "10.244.1.1/24")
	w.route("10.244.2.0/24", "192.168.1.12", topology.Protocol, int(topology.PeerMetric(netip.MustParsePrefix("10.244.2.0/24"))))
	w.setting(topology.SysctlForward4, "1")
	w.setting(topology.SysctlBridgeNF4, "1")
	w.Kernel, err = inspect.New()
	w.must(err)
	t.Cleanup(func() { w.must(w.Kernel.Close()) })
	program, err := os.Executable()
	w.must(err)
	for _, name := range cni.Required() {
		w.must(os.Symlink(program, filepath.Join(w.BinDir, name))) // a program, whatever it does
	}
	w.look()
	return w
}

// newDualTestbed returns a testbed of both families, whose --cluster-cidr has only IPv4.
func newDualTestbed(t *testing.T) *testbed {
	t.Helper()
	w := newTestbed(t)
	w.sh(`sysctl -qw net/ipv6/conf/all/forwarding=1 net/ipv6/conf/default/accept_dad=0
		ip -6 addr add fd00:192:168:1::11/64 dev eth0 nodad
		ip -6 addr add fd00:10:244:1::1/64 dev plainroute0 nodad
		ip -6 route add fd00:10:244:2::/64 via fd00:192:168:1::12 dev eth0 proto 112 metric 2048
		ip route add unreachable 10.244.1.0/24 proto 112 metric 4096; ip -6 route add unreachable fd00:10:244:1::/64 proto 112 metric 4096
		ip link set plainroute0 address 02:00:00:00:00:01`) // as the agent pins it
	w.Report.Host.Addresses = append(w.Report.Host.Addresses, netip.MustParseAddr("fd00:192:168:1::11"))
	w.Report.Host.Subnets = append(w.Report.Host.Subnets, netip.MustParsePrefix("fd00:10:244:1::/64"))
	w.Report.Host.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	w.look()
	return w
}

// sh runs commands in the testbed.
func (w *testbed) sh(commands string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "sh", "-ec", commands) // of this thread's namespace
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", commands, err, out)
	}
}

func (w *testbed) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *testbed) add(link rtnl.Link) {
	w.t.Helper()
	w.must(w.nl.LinkAdd(link))
	w.must(w.nl.LinkSetUp(link))
	if veth, ok := link.(*rtnl.Veth); ok {
		peer, err := w.nl.LinkByName(veth.PeerName)
		w.must(err)
		w.must(w.nl.LinkSetUp(peer))
	}
}

func (w *testbed) address(dev, prefix string) {
	w.t.Helper()
	a, err := rtnl.ParseAddr(prefix)
	w.must(err)
	link, err := w.nl.LinkByName(dev)
	w.must(err)
	w.must(w.nl.AddrAdd(link, a))
}

func (w *testbed) route(dst, via string, protocol, metric int) {
	w.t.Helper()
	link, err := w.nl.LinkByName("eth0")
	w.must(err)
	prefix, err := rtnl.ParseIPNet(dst)
	w.must(err)
	w.must(w.nl.RouteAdd(&rtnl.Route{
		Dst: prefix, Gw: netip.MustParseAddr(via).AsSlice(), LinkIndex: link.Attrs().Index, Protocol: rtnl.RouteProtocol(protocol), Priority: metric,
	}))
}

func (w *testbed) setting(path, value string) {
	w.t.Helper()
	w.must(os.WriteFile(filepath.Join(w.ProcSys, path), []byte(value), 0o644))
}

func (w *testbed) write(path, text string) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(path), 0o755))
	w.must(os.WriteFile(path, []byte(text), 0o644))
}

// look reads the kernel again.
func (w *testbed) look() {
	w.t.Helper()
	kernel, err := dataplane.New(dataplane.Config{Bridge: w.Bridge, ProcSys: w.ProcSys, ResolvConf: "/dev/null", CNI: w.Store})
	w.must(err)
	defer kernel.Close()
	w.Host, err = kernel.Facts(w.t.Context(), nil)
	w.must(err)
	w.State, err = kernel.Observe(w.t.Context())
	w.must(err)
}

// runCheck runs a check on this thread, because it may be in a namespace of its own.
func runCheck(t *testing.T, name string, target *Target) []problem.Problem {
	t.Helper()
	for _, c := range Checks() {
		if c.Name == name {
			return c.Run(t.Context(), target)
		}
	}
	t.Fatalf("there is no check %s", name)
	return nil
}

// finds runs a check and fails the test unless its result has that severity, with evidence and
// remediation if it is a problem.
func (w *testbed) finds(name string, want problem.Severity) problem.Problem {
	w.t.Helper()
	found := runCheck(w.t, name, w.Target)
	if len(found) == 0 {
		found = []problem.Problem{{Severity: problem.None}}
	}
	if worstOf(found) != want {
		w.t.Fatalf("%s is %+v, want %s", name, found, want)
	}
	if f := found[0]; (want == problem.Error || want == problem.Warning) && (f.Message == "" || f.Evidence == "" || f.Remediation == "") {
		w.t.Errorf("%s has an incomplete result: %+v", name, f)
	}
	return found[0]
}
