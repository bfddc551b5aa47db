package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// A lan is the network that a test's node is on. The node is the sandbox's own
// namespace, with 192.168.1.11 on the bridge lan0; peers are plugged into it:
//
//	node1 .11 = lan0 --- to-node2 === eth0 .12 node2, routes 10.244.2.0/24
//	                 \-- to-node3 === eth0 .13 node3, routes 10.244.3.0/24
type lan struct {
	t     *testing.T
	nl    *rtnl.Handle
	nodes []corev1.Node
	state topology.State
}

// A machine is a peer's network namespace.
type machine struct {
	*lan
	name string
	nl   *rtnl.Handle
	fd   netns.NsHandle
}

const podMTU = 1500

func newLAN(t *testing.T) *lan {
	t.Helper()
	testutil.NeedSandbox(t)
	l := &lan{t: t}
	var err error
	l.nl, err = rtnl.NewHandle()
	l.must(err)
	t.Cleanup(l.nl.Close)
	sysctl(t, "net/ipv6/conf/default/accept_dad", "0")
	bridge := &rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "lan0", HardwareAddr: mac(11)}}
	l.must(l.nl.LinkAdd(bridge))
	t.Cleanup(func() { l.must(l.nl.LinkDel(bridge)) })
	for _, mtu := range []int{1400, 1500} { // once it was set, it does not follow the least of its ports
		l.must(l.nl.LinkSetMTU(bridge, mtu))
	}
	addAddrs(t, l.nl, "lan0", "192.168.1.11/24", "fd00:192:168:1::11/64")
	lo, err := l.nl.LinkByName("lo")
	l.must(err)
	l.must(l.nl.LinkSetUp(lo))
	l.addNode(1)
	l.state.CNI = &topology.CNI{Bridge: topology.Bridge, MTU: podMTU, Subnets: prefixes(1)}
	return l
}

func (l *lan) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func mac(n int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(n)} }

func prefixes(n int) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", n))}
}

// addNode makes the Node of number n, as the API server would have it.
func (l *lan) addNode(n int) *corev1.Node {
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", n)}}
	for _, p := range prefixes(n) {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, p.String())
	}
	for _, ip := range []string{fmt.Sprintf("192.168.1.%d", 10+n), fmt.Sprintf("fd00:192:168:1::%d", 10+n)} {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	l.nodes = append(l.nodes, node)
	return &l.nodes[len(l.nodes)-1]
}

// route adds what the agent would: routes to a node's pods.
func (l *lan) route(n int, via ...string) {
	l.t.Helper()
	for i, hop := range via {
		r := &topology.Route{Dst: prefixes(n)[i], Via: netip.MustParseAddr(hop), Dev: "lan0", Protocol: topology.Protocol, Metric: topology.PeerMetric(prefixes(n)[i])}
		l.state.Routes = append(l.state.Routes, r)
		l.must(addRoute(l.nl, r.Dst.String(), hop, topology.Protocol))
	}
}

func addRoute(nl *rtnl.Handle, dst, via string, protocol int) error {
	_, to, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return nl.RouteAdd(&rtnl.Route{Dst: to, Gw: net.ParseIP(via), Protocol: rtnl.RouteProtocol(protocol)})
}

// peer adds Node n with a machine that is on the link and refuses packets for missing pods, as with
// an agent.
func (l *lan) peer(n int) *machine {
	l.t.Helper()
	l.addNode(n)
	m := l.machine(fmt.Sprintf("node%d", n), mac(10+n))
	addAddrs(l.t, m.nl, "eth0", fmt.Sprintf("192.168.1.%d/24", 10+n), fmt.Sprintf("fd00:192:168:1::%d/64", 10+n))
	m.sysctl("net/ipv4/ip_forward", "1")
	m.sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, p := range prefixes(n) {
		_, dst, _ := net.ParseCIDR(p.String())
		l.must(m.nl.RouteAdd(&rtnl.Route{Dst: dst, Type: unix.RTN_UNREACHABLE}))
	}
	l.route(n, fmt.Sprintf("192.168.1.%d", 10+n), fmt.Sprintf("fd00:192:168:1::%d", 10+n))
	return m
}

// machine plugs a new namespace into the LAN.
func (l *lan) machine(name string, card net.HardwareAddr) *machine {
	l.t.Helper()
	m := l.namespace(name)
	port := &rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "to-" + name, MTU: 1500}, PeerName: "eth0", PeerHardwareAddr: card, PeerNamespace: rtnl.NsFd(int(m.fd))}
	l.must(l.nl.LinkAdd(port))
	l.t.Cleanup(func() { l.must(l.nl.LinkDel(port)) }) // at once, because a namespace is deleted later
	bridge, err := l.nl.LinkByName("lan0")
	l.must(err)
	l.must(l.nl.LinkSetMaster(port, bridge))
	l.must(l.nl.LinkSetUp(port))
	return m
}

// settle waits until the kernel has noticed the carriers of all ports, which may take a second
// (net/core/link_watch.c).
func (l *lan) settle() {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		links, err := l.nl.LinkList()
		l.must(err)
		if !slices.ContainsFunc(links, func(k rtnl.Link) bool {
			return strings.HasPrefix(k.Attrs().Name, "to-") && k.Attrs().OperState != rtnl.OperUp
		}) {
			return
		}
		if time.Now().After(end) {
			l.t.Fatal("a cable of the LAN does not come up")
		}
	}
}

func (l *lan) namespace(name string) *machine {
	l.t.Helper()
	m := &machine{lan: l, name: name}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the namespace with the goroutine
		var err error
		if m.fd, err = netns.NewNamed(name); err == nil {
			err = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
		}
		made <- err
	}()
	l.must(<-made)
	l.t.Cleanup(func() {
		m.nl.Close()
		l.must(m.fd.Close())
		l.must(netns.DeleteNamed(name))
	})
	var err error
	m.nl, err = rtnl.NewHandleAt(m.fd)
	l.must(err)
	return m
}

// do runs fn on a thread in the machine's namespace.
func (m *machine) do(fn func() error) {
	m.t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(m.fd); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	m.must(<-done)
}

func (m *machine) sysctl(path, value string) {
	m.t.Helper()
	m.do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) })
}

func sysctl(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

func addAddrs(t *testing.T, nl *rtnl.Handle, dev string, addrs ...string) {
	t.Helper()
	link, err := nl.LinkByName(dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := nl.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addr, err := rtnl.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := nl.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
	}
}

// target is the node on the LAN.
func (l *lan) target() *Target {
	l.t.Helper()
	l.settle()
	kernel, err := inspect.New()
	l.must(err)
	l.t.Cleanup(func() { kernel.Close() })
	dir := l.t.TempDir()
	return &Target{
		Root: dir, ProcSys: "/proc/sys", Node: "node1", Bridge: topology.Bridge, Kernel: kernel,
		State: l.state, Nodes: l.nodes, Store: cni.Store{ConfDir: dir + "/net.d", RunDir: dir + "/run"},
	}
}

// quickest returns the least duration of three runs, because other programs use the machine too.
func quickest(do func()) time.Duration {
	least := time.Hour
	for range 3 { // hosts limit the rate of their answers
		begin := time.Now()
		do()
		least = min(least, time.Since(begin))
	}
	return least
}

// well fails the test if a check finds anything.
func well(t *testing.T, found []problem.Problem) {
	t.Helper()
	for _, f := range found {
		t.Errorf("all is well, and yet: %s: %s (%s)", f.Severity, f.Message, f.Evidence)
	}
}

// finds fails the test unless a check found exactly one problem, whose text has all words.
func finds(t *testing.T, found []problem.Problem, severity problem.Severity, words ...string) {
	t.Helper()
	if len(found) != 1 || found[0].Severity != severity {
		t.Fatalf("found %+v, want one %s", found, severity)
	}
	text := found[0].Message + "\n" + found[0].Evidence + "\n" + found[0].Remediation
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
	if severity != problem.Unknown && (found[0].Evidence == "" || found[0].Remediation == "") {
		t.Errorf("evidence or remediation is missing: %+v", found[0])
	}
}
