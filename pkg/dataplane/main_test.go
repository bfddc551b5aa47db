package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// TestMain moves all tests into a sandbox, where each test can make network namespaces.
func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nil)) }

// A machine is a network namespace of a test's own: eth0 is 192.168.1.11 with a
// router behind it, and nothing of ours is there.
type machine struct {
	*Kernel
	t    testing.TB
	dir  string
	ipv6 bool // whether it has any
	nl   *rtnl.Handle
	eth0 rtnl.Link
	tune func(*topology.Options) // changes the options of passes; nil: none
}

// newMachine moves the test to a fresh namespace. Its thread ends with the test.
func newMachine(t testing.TB) *machine {
	t.Helper()
	testutil.NeedSandbox(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("can't make network namespaces here: %v", err)
	}
	m := &machine{t: t, dir: t.TempDir()}
	m.switchIPv6()
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
	m.route("default", "192.168.1.1", "eth0", 0, 4)
	for _, dir := range []string{"net.d", "run"} {
		m.must(os.Mkdir(filepath.Join(m.dir, dir), 0o755))
	}
	m.Kernel, err = New(Config{
		Bridge: topology.Bridge, ProcSys: m.procSys(), ResolvConf: filepath.Join(m.dir, "resolv.conf"),
		CNI: cni.Store{ConfDir: filepath.Join(m.dir, "net.d"), RunDir: filepath.Join(m.dir, "run")},
	})
	m.must(err)
	m.askForNoIPv6()
	t.Cleanup(func() { m.must(m.Close()) })
	return m
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// addVeth makes a device whose other end, in the same namespace, is up too.
func (m *machine) addVeth(name string, mtu int) {
	m.t.Helper()
	m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: name, MTU: mtu}, PeerName: name + "-peer"}))
	if m.ipv6 {
		m.sysctl("net/ipv6/conf/"+name+"/accept_dad", "0")
	}
	m.up(name + "-peer")
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

func (m *machine) readSysctl(path string) string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc/sys", path))
	m.must(err)
	return strings.TrimSpace(string(b))
}

// route adds a foreign route.
func (m *machine) route(dst, via, dev string, metric, protocol int) {
	m.t.Helper()
	m.must(m.nl.RouteAdd(m.foreign(dst, via, dev, metric, protocol)))
}

func (m *machine) foreign(dst, via, dev string, metric, protocol int) *rtnl.Route {
	r := &rtnl.Route{LinkIndex: m.link(dev).Attrs().Index, Priority: metric, Protocol: rtnl.RouteProtocol(protocol)}
	if dst != "default" {
		_, r.Dst, _ = net.ParseCIDR(dst)
	} else {
		_, r.Dst, _ = net.ParseCIDR("0.0.0.0/0")
	}
	if via != "" {
		r.Gw = net.ParseIP(via)
	}
	return r
}

// options are those of node1 in the tests' cluster.
func options(m *machine) topology.Options {
	o := topology.Options{NodeName: "node1", Masquerade: true, Bridge: topology.Bridge, RunDir: filepath.Join(m.dir, "run")}
	if m.tune != nil {
		m.tune(&o)
	}
	return o
}

// nodes are n Nodes, dual-stack; the first is us.
func nodes(n int) []*topology.Node {
	all := make([]*topology.Node, n)
	for i := range all {
		low, high := byte(i), byte(i>>8)
		all[i] = &topology.Node{
			Name: fmt.Sprintf("node%d", i+1),
			PodCIDRs: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 + high, low, 0}), 24),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 6: high, 7: low}), 64),
			},
			Addrs: []netip.Addr{
				netip.AddrFrom4([4]byte{192, 168, 1, 11 + low%200}),
				netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x92 + 0, 14: high, 15: low}),
			},
		}
		all[i].Addrs[1] = netip.MustParseAddr(fmt.Sprintf("fd00:192:168:1::%x", 0x11+i))
	}
	return all
}

// pass is what a pass of the controller does: it returns the changes it made.
func (m *machine) pass(all []*topology.Node) plan.Changes {
	m.t.Helper()
	c := m.diff(all)
	m.must(m.Apply(context.Background(), c))
	return c
}

func (m *machine) diff(all []*topology.Node) plan.Changes {
	m.t.Helper()
	host, err := m.Facts(context.Background(), topology.Concerns(options(m), all))
	m.must(err)
	actual, err := m.Observe(context.Background())
	m.must(err)
	desired, problems := topology.Desired(options(m), host, m.stated(all), actual)
	for _, p := range problems {
		if p.BlocksReady {
			m.t.Fatalf("this machine is not ready: %v", p)
		}
	}
	return plan.Diff(desired, actual)
}

// observe returns what of ours is there.
func (m *machine) observe() topology.State {
	m.t.Helper()
	state, err := m.Observe(context.Background())
	m.must(err)
	return state
}

// settleOwnFault passes twice where this node itself has a fault of one kind.
func (m *machine) settleOwnFault(all []*topology.Node, reason problem.Reason) {
	m.t.Helper()
	for range 2 {
		m.Forget()
		host, err := m.Facts(context.Background(), topology.Concerns(options(m), all))
		m.must(err)
		actual, err := m.Observe(context.Background())
		m.must(err)
		desired, problems := topology.Desired(options(m), host, m.stated(all), actual)
		if !slices.ContainsFunc(problems, func(p problem.Problem) bool { return p.Reason == reason }) {
			m.t.Fatalf("no %s among %v", reason, problems)
		}
		m.must(m.Apply(context.Background(), plan.Diff(desired, actual)))
	}
}

// settle makes passes until nothing is left to do, reading the kernel again each time.
func (m *machine) settle(all []*topology.Node) {
	m.t.Helper()
	for range 3 {
		m.Forget()
		if m.pass(all).Empty() {
			return
		}
	}
	m.Forget()
	m.t.Fatalf("the kernel does not become what is desired: %+v", m.diff(all))
}

// ours lists the routes of our protocol as another program sees them.
func (m *machine) ours() []rtnl.Route {
	m.t.Helper()
	all, err := m.nl.RouteListFiltered(rtnl.FAMILY_ALL, &rtnl.Route{Protocol: topology.Protocol, Table: unix.RT_TABLE_MAIN}, rtnl.RT_FILTER_PROTOCOL|rtnl.RT_FILTER_TABLE)
	m.must(err)
	return all
}

// foreignRoutes lists all others of the main table, for comparison; not those that the
// kernel makes for the bridge's addresses.
func (m *machine) foreignRoutes() []string {
	m.t.Helper()
	all, err := m.nl.RouteListFiltered(rtnl.FAMILY_ALL, &rtnl.Route{Table: unix.RT_TABLE_MAIN}, rtnl.RT_FILTER_TABLE)
	m.must(err)
	bridge := -1
	if l, err := m.nl.LinkByName(topology.Bridge); err == nil {
		bridge = l.Attrs().Index
	}
	var others []string
	for _, r := range all {
		if r.LinkIndex != bridge && r.Protocol != topology.Protocol && !r.Dst.IP.IsLinkLocalUnicast() {
			others = append(others, r.String())
		}
	}
	slices.Sort(others)
	return others
}

// watch runs Watch; the channel gets a value for each notification.
func (m *machine) watch() <-chan struct{} {
	news := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.Watch(ctx, time.Hour, func() { news <- struct{}{} }) }()
	m.t.Cleanup(func() {
		cancel()
		m.must(<-done)
	})
	return news
}

// watchSettled watches once all is as desired, with no old news left.
func (m *machine) watchSettled(all []*topology.Node) <-chan struct{} {
	m.t.Helper()
	news := m.watch()
	m.settle(all)
	drain(news, shortly)
	m.settle(all)
	drain(news, shortly)
	return news
}

// expect waits for a notification.
func (m *machine) expect(news <-chan struct{}, of string) {
	m.t.Helper()
	select {
	case <-news:
	case <-time.After(time.Minute):
		m.t.Fatalf("no notification of %s", of)
	}
}

// quiet fails if one comes.
func (m *machine) quiet(news <-chan struct{}, about string) {
	m.t.Helper()
	select {
	case <-news:
		m.t.Fatalf("a notification of %s", about)
	case <-time.After(200 * time.Millisecond):
	}
}

const (
	shortly = 100 * time.Millisecond
	// settleTime exceeds the second by which the kernel may delay notifications of carriers
	// (net/core/link_watch.c).
	settleTime = 1200 * time.Millisecond
)

// drain reads old news until there is none for a while.
func drain(news <-chan struct{}, while time.Duration) {
	for {
		select {
		case <-news:
		case <-time.After(while):
			return
		}
	}
}

// routes, addresses, devices and sets are Changes that do one thing to each of some objects.
func routes(op plan.Op, all ...topology.Route) plan.Changes {
	return objects(op, all, func(r topology.Route) plan.Object { return plan.Route{Route: r} })
}

// values returns what routes of a State point to.
func values(all []*topology.Route) []topology.Route {
	values := make([]topology.Route, len(all))
	for i, r := range all {
		values[i] = *r
	}
	return values
}

func addresses(op plan.Op, all ...topology.Address) plan.Changes {
	return objects(op, all, func(a topology.Address) plan.Object { return plan.Address{Address: a} })
}

func devices(all ...topology.Device) plan.Changes {
	return objects(plan.Replace, all, func(d topology.Device) plan.Object { return plan.Device{Device: d} })
}

func sets(op plan.Op, s plan.SetChange) plan.Changes { return plan.Of(op, plan.Sets{SetChange: &s}) }

func bridge(name string) plan.Object { return plan.Bridge{Device: topology.Device{Name: name}} }

func objects[T any](op plan.Op, all []T, object func(T) plan.Object) plan.Changes {
	var c plan.Changes
	for _, x := range all {
		c = append(c, plan.Change{Op: op, Object: object(x)})
	}
	return c
}

// count returns how many routes are added, replaced or deleted.
func count(c plan.Changes, ops ...plan.Op) int { return len(plan.Objects[plan.Route](c, ops...)) }
