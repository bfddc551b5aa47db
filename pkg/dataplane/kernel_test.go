package dataplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

func TestFirstPassMakesAllAndSecondNothing(t *testing.T) {
	m := newMachine(t)
	before := m.foreignRoutes()
	m.settle(nodes(5))
	if n := len(m.ours()); n != m.families()*5 {
		t.Errorf("%d routes of ours, want 4 peers and our own in 2 families", n)
	}
	if after := m.foreignRoutes(); !slices.Equal(before, after) {
		t.Errorf("foreign routes changed:\n%v\n%v", before, after)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "net.d", topology.Conflist)); err != nil {
		t.Error(err)
	}
	paths := []string{topology.SysctlForward4, "net/ipv4/conf/eth0/forwarding"}
	if m.ipv6 {
		paths = append(paths, topology.SysctlForward6)
	}
	for _, path := range paths {
		if m.readSysctl(path) != "1" {
			t.Errorf("%s is not 1", path)
		}
	}
}

// The kept state is equal to the kernel's.
func TestKeptStateIsTheKernels(t *testing.T) {
	m := newMachine(t)
	all := nodes(8)
	for _, n := range []int{8, 5, 2, 7, 1, 8} {
		m.pass(all[:n])
		kept, err := m.Observe(context.Background())
		m.must(err)
		keptRoutes, keptTable := slices.Clone(kept.Routes), *kept.Masquerade
		m.Forget()
		read, err := m.Observe(context.Background())
		m.must(err)
		if !slices.Equal(keptRoutes, read.Routes) {
			t.Errorf("%d nodes: kept %v\nread %v", n, keptRoutes, read.Routes)
		}
		if c := plan.Diff(topology.State{Masquerade: &keptTable, Routes: read.Routes, CNI: read.CNI, Bridge: read.Bridge, Addresses: read.Addresses}, read); !c.Empty() {
			t.Errorf("%d nodes: kept table %+v\nread %+v", n, keptTable, read.Masquerade)
		}
	}
}

func TestManyRoutes(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(600))
	m.settle(nodes(3))
	if n := len(m.ours()); n != m.families()*3 {
		t.Errorf("%d routes of ours are left, want 6", n)
	}
}

func TestAddressChangeReplacesInPlace(t *testing.T) {
	m := newMachine(t)
	all := nodes(3)
	m.settle(all)
	moved := *all[2]
	moved.Addrs = []topology.Node{*nodes(9)[8]}[0].Addrs
	c := m.diff([]*topology.Node{all[0], all[1], &moved})
	if count(c, plan.Replace) != m.families() || count(c, plan.Add, plan.Delete) != 0 {
		t.Fatalf("changes are %+v", c)
	}
	m.settle([]*topology.Node{all[0], all[1], &moved})
}

// A foreign route that wins is left alone, and ours stands by.
func TestForeignRouteWins(t *testing.T) {
	m := newMachine(t)
	all := nodes(2)
	subnet := all[1].PodCIDRs[0].String()
	m.route(subnet, "192.168.1.99", "eth0", 0, 4)
	m.route("10.0.0.0/8", "192.168.1.98", "eth0", 2048, 4)
	before := m.foreignRoutes()
	m.settle(all)
	m.settle(all[:1])
	m.settle(all)
	if after := m.foreignRoutes(); !slices.Equal(before, after) {
		t.Errorf("foreign routes changed:\n%v\n%v", before, after)
	}
	m.must(m.nl.RouteDel(m.foreign(subnet, "192.168.1.99", "eth0", 0, 4)))
	got, err := m.nl.RouteGet(all[1].PodCIDRs[0].Addr().Next().AsSlice())
	m.must(err)
	if got[0].Gw.String() != all[1].Addrs[0].String() {
		t.Errorf("traffic goes by %v", got[0])
	}
}

// Someone has our very key, in both families: ours can't be there, and no
// operation of ours may hit theirs.
func TestForeignRouteWithOurKey(t *testing.T) {
	m := newMachine(t)
	all := nodes(2)
	m.route(all[1].PodCIDRs[0].String(), "192.168.1.99", "eth0", int(topology.PeerMetric(all[1].PodCIDRs[0])), 4)
	if m.ipv6 {
		m.route(all[1].PodCIDRs[1].String(), "fd00:192:168:1::99", "eth0", topology.MetricPeer, 4)
	}
	before := m.foreignRoutes()
	m.settle(all)
	m.settle(all[:1])
	if after := m.foreignRoutes(); !slices.Equal(before, after) {
		t.Errorf("foreign routes changed:\n%v\n%v", before, after)
	}
	// Not even if we did not know: an add fails, a change fails, a deletion misses.
	theirs := topology.Route{Dst: all[1].PodCIDRs[0], Via: all[1].Addrs[0], Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(all[1].PodCIDRs[0])}
	if err := m.Apply(context.Background(), routes(plan.Add, theirs)); !errors.Is(err, unix.EEXIST) {
		t.Errorf("adding over a foreign route: %v", err)
	}
	m.pass(all)
	if err := m.Apply(context.Background(), routes(plan.Delete, theirs)); err != nil {
		t.Errorf("deleting what is not there: %v", err)
	}
	if after := m.foreignRoutes(); !slices.Equal(before, after) {
		t.Errorf("foreign routes changed:\n%v\n%v", before, after)
	}
}

func TestSourceAmongSeveralAddresses(t *testing.T) {
	m := newMachine(t)
	m.addr("eth0", "192.168.1.200/24")
	all := nodes(2)
	m.settle(all)
	for _, r := range m.ours() {
		if r.Gw.To4() != nil && r.Src.String() != "192.168.1.11" {
			t.Errorf("source of %v", r)
		}
	}
}

func TestUnreachableOwnSubnet(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(1))
	m.must(m.nl.LinkDel(m.link(topology.Bridge)))
	if _, err := m.nl.RouteGet([]byte{10, 128, 0, 77}); !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("a pod while there is no bridge: %v", err)
	}
	m.settle(nodes(1))
	got, err := m.nl.RouteGet([]byte{10, 128, 0, 77})
	m.must(err)
	if got[0].LinkIndex != m.link(topology.Bridge).Attrs().Index {
		t.Errorf("the bridge's route does not win: %v", got)
	}
}

// A kernel that refuses one route gives a RouteError for it alone, and the CNI
// config is written all the same.
func TestRefusedRouteConcernsItsNode(t *testing.T) {
	m := newMachine(t)
	c := m.diff(nodes(3))
	at := slices.IndexFunc(c, func(x plan.Change) bool { return x.Kind() == plan.KindRoute }) + 1
	bad := c[at].Object.(plan.Route)
	bad.Via = bad.Dst.Addr() // not a neighbor
	c[at].Object = bad
	err := m.Apply(context.Background(), c)
	var refused *RouteError
	if !errors.As(err, &refused) || refused.Route != bad.Route {
		t.Fatalf("error is %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "net.d", topology.Conflist)); err != nil {
		t.Error(err)
	}
	if n := len(m.ours()); n != m.families()*3-1 {
		t.Errorf("%d routes of ours, want all but one of %d", n, m.families()*3)
	}
}

func TestZeroStateRemovesAllOfOurs(t *testing.T) {
	m := newMachine(t)
	before := m.foreignRoutes()
	m.settle(nodes(4))
	actual, err := m.Observe(context.Background())
	m.must(err)
	m.must(m.Apply(context.Background(), plan.Diff(topology.State{}, actual)))
	m.Forget()
	left, err := m.Observe(context.Background())
	m.must(err)
	if len(left.Routes) > 0 || left.Masquerade != nil || left.CNI != nil {
		t.Errorf("left: %+v", left)
	}
	if after := m.foreignRoutes(); !slices.Equal(before, after) {
		t.Errorf("foreign routes changed:\n%v\n%v", before, after)
	}
}

// IPv6 forwarding must not cost the host its default route.
func TestAcceptRAWhereARouterAdvertises(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.sysctl("net/ipv6/conf/eth0/accept_ra", "1")
	ra := m.foreign("::/0", "fd00:192:168:1::1", "eth0", 1024, unix.RTPROT_RA)
	m.must(m.nl.RouteAdd(ra))
	m.settle(nodes(2))
	if got := m.readSysctl("net/ipv6/conf/eth0/accept_ra"); got != "2" {
		t.Errorf("accept_ra is %s", got)
	}
	if got := m.readSysctl("net/ipv6/conf/lo/accept_ra"); got == "2" {
		t.Error("accept_ra of lo changed too")
	}
	if got := m.readSysctl(topology.SysctlForward6); got != "1" {
		t.Error("IPv6 forwarding is off")
	}
}

func TestNameservers(t *testing.T) {
	m := newMachine(t)
	m.must(os.WriteFile(filepath.Join(m.dir, "resolv.conf"), []byte("search x\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver\noptions x\n"), 0o644))
	host, err := m.Facts(context.Background(), nil)
	m.must(err)
	if len(host.Nameservers) != 2 || host.Nameservers[0].String() != "10.0.0.53" || host.Nameservers[1].String() != "fe80::1" {
		t.Errorf("got %v", host.Nameservers)
	}
}

// Errors of files besides the kernel are reported, and nothing else depends on them: the former
// nameservers are kept.
func TestUnreadFilesStopNothing(t *testing.T) {
	m := newMachine(t)
	file := filepath.Join(m.dir, "resolv.conf")
	m.must(os.WriteFile(file, []byte("nameserver 10.0.0.53\n"), 0o644))
	_, err := m.Facts(t.Context(), nil)
	m.must(err)
	m.must(errors.Join(os.Remove(file), os.Mkdir(file, 0o755)))
	news := make(chan struct{}, 2)
	for range 2 {
		m.setBlind(errors.New("too many watches"), func() { news <- struct{}{} })
	}
	host, err := m.Facts(t.Context(), nil)
	m.must(err)
	if len(host.Nameservers) != 1 || len(host.Unseen) != 2 || len(news) != 1 {
		t.Errorf("got nameservers %v, unseen %q, %d news; want one, two and one", host.Nameservers, host.Unseen, len(news))
	}
}

// A host without resolv.conf has no nameservers. A missing file that an operator has named, such as
// the host's in a mount, is an error, and its last content is kept.
func TestMissingResolvConf(t *testing.T) {
	for _, needed := range []bool{false, true} {
		m := newMachine(t)
		m.cfg.ResolvConfNeeded = needed
		file := filepath.Join(m.dir, "resolv.conf")
		m.must(os.WriteFile(file, []byte("nameserver 10.0.0.53\n"), 0o644))
		_, err := m.Facts(t.Context(), nil)
		m.must(err)
		m.must(os.WriteFile(file, []byte("nameserver 10.0.0.54\n"), 0o644))
		host, err := m.Facts(t.Context(), nil)
		m.must(err)
		if got := fmt.Sprint(host.Nameservers); got != "[10.0.0.54]" {
			t.Errorf("after a change: %s", got)
		}
		m.must(os.Remove(file))
		host, err = m.Facts(t.Context(), nil)
		m.must(err)
		if needed != (len(host.Nameservers) == 1) || needed != (len(host.Unseen) == 1) {
			t.Errorf("needed %t: nameservers %v, unseen %q", needed, host.Nameservers, host.Unseen)
		}
	}
}

// A recreated link of a forwarding host would receive no advertisement, because it has the kernel's
// default of accept_ra, which is not announced.
func TestAcceptRAOfARecreatedLink(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.sysctl("net/ipv6/conf/eth0/accept_ra", "1")
	m.must(m.nl.RouteAdd(m.foreign("::/0", "fd00:192:168:1::1", "eth0", 1024, unix.RTPROT_RA)))
	news := m.watchSettled(nodes(2))
	m.must(m.nl.LinkDel(m.link("eth0")))
	m.settleOwnFault(nodes(2), problem.AddressMissing)
	drain(news, settleTime)
	m.settleOwnFault(nodes(2), problem.AddressMissing)
	m.addVeth("eth0", 1500)
	m.sysctl("net/ipv6/conf/eth0/accept_ra", "1")
	m.expect(news, "a link that came back")
	m.settleOwnFault(nodes(2), problem.AddressMissing)
	if got := m.readSysctl("net/ipv6/conf/eth0/accept_ra"); got != "2" {
		t.Errorf("accept_ra is %s", got)
	}
}
