package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// ruin takes away all that a pass makes for two Nodes, and one pod's cable.
func (m *machine) ruin() {
	m.t.Helper()
	m.must(m.nl.LinkDel(m.link(topology.Bridge)))
	for _, r := range m.ours()[1:] {
		m.must(m.nl.RouteDel(&r))
	}
	c := m.nft4test()
	c.DelTable(nftTable)
	m.must(c.Flush())
	m.sysctl(topology.SysctlForward4, "0")
	m.must(m.cfg.CNI.Remove())
	m.tried = trial{}
	m.Forget()
}

// Each request of a pass that the kernel refuses is reported, whichever it is, and the passes after
// it make what is missing.
func TestEachRefusedRequestOfAPassIsReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	m.addPod("vethpod", "10.128.0.2/24", "fd01::2/64")
	m.settle(nodes(3))
	r := seccomp.NewRefuser(t)
	for n := 1; ; n++ {
		m.ruin()
		c := m.diff(nodes(3))
		end := r.Nth(unix.ENOMEM, n)
		err := m.Apply(t.Context(), c)
		refused := end()
		if len(refused) == 0 {
			m.must(err)
			break
		}
		// The library looks for a new device's index by itself, and goes on without.
		if !errors.Is(err, unix.ENOMEM) && !slices.Equal(refused, []uint16{unix.RTM_GETLINK}) {
			t.Errorf("request %d, of kind %v, was refused, and the error is %v", n, refused, err)
		}
		m.settle(nodes(3))
		m.attached("vethpod")
	}
}

// Each request of a look at the kernel that is refused is reported.
func TestEachRefusedRequestOfAReadIsReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	want := m.observe()
	r := seccomp.NewRefuser(t)
	for n := 1; ; n++ {
		m.Forget()
		m.objects = true
		end := r.Nth(unix.ENOMEM, n)
		host, err := m.Facts(t.Context(), nil)
		refused := end()
		if len(refused) == 0 {
			m.must(err)
			break
		}
		table := strings.Contains(host.TableUnread, unix.ENOMEM.Error())
		if errors.Is(err, unix.ENOMEM) == table {
			t.Errorf("request %d, of kind %v, was refused, the error is %v, and of the table %q", n, refused, err, host.TableUnread)
		}
		m.settle(nodes(3))
	}
	if got := m.observe(); !slices.EqualFunc(got.Routes, want.Routes, topology.SameRoute) || plan.Diff(want, got).Has(plan.KindTable) {
		t.Errorf("%+v became %+v", want, got)
	}
}

// The kernel's errors for objects that exist already, or have gone meanwhile, are ignored.
func TestFinishedChangesAreNotErrors(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	there := m.observe()
	r := seccomp.NewRefuser(t)
	port := topology.Device{Name: topology.Bridge, MTU: 1400, Up: true}
	for name, c := range map[string]struct {
		changes plan.Changes
		kind    uint16
		errno   unix.Errno
	}{
		"route to delete":   {routes(plan.Delete, values(there.Routes[:1])...), unix.RTM_DELROUTE, unix.ESRCH},
		"address to delete": {addresses(plan.Delete, there.Addresses[:1]...), unix.RTM_DELADDR, unix.EADDRNOTAVAIL},
		"device to set":     {devices(port), unix.RTM_NEWLINK, unix.ENODEV},
		"MTU of a device":   {plan.Of(plan.Replace, plan.MTU{Dev: topology.Bridge, Bytes: 1400}), unix.RTM_SETLINK, unix.ENODEV},
		"bridge to delete":  {plan.Of(plan.Delete, bridge(topology.Bridge)), unix.RTM_DELLINK, unix.ENODEV},
	} {
		for errno, want := range map[unix.Errno]bool{c.errno: false, unix.ENOMEM: true} {
			r.Requests(errno, c.kind)
			err := m.Apply(t.Context(), c.changes)
			r.Nothing()
			if (err != nil) != want {
				t.Errorf("%s: after %v the error is %v", name, errno, err)
			}
		}
		m.settle(nodes(3))
	}
}

// After more changes than are kept one by one, what counts as there is what is there.
func TestManyChangesAreReadAgain(t *testing.T) {
	m := newMachine(t)
	all := nodes(2 * worthKeeping) // of which few have our own InternalIP, and no route
	for _, n := range []int{2 * worthKeeping, 1, worthKeeping} {
		m.pass(all[:n])
		if kept, there := len(m.observe().Routes), len(m.ours()); kept != there || there < min(n, worthKeeping-n/50) {
			t.Errorf("%d routes count as there, and %d are, of %d Nodes", kept, there, n)
		}
	}
}

// A refused look at the bridge's neighbors, or a refused deletion, is reported; that one has gone
// meanwhile is not.
func TestRefusedNeighborsAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	r := seccomp.NewRefuser(t)
	for errno, want := range map[unix.Errno]string{unix.ENOMEM: "deleting neighbors of plainroute0: ", unix.ENOENT: ""} {
		m.must(m.nl.NeighSet(&rtnl.Neigh{
			LinkIndex: m.link(topology.Bridge).Attrs().Index, IP: net.ParseIP("10.128.0.77"), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}, State: unix.NUD_REACHABLE,
		}))
		r.Requests(errno, unix.RTM_DELNEIGH)
		err := m.dropNeighbors()
		r.Nothing()
		if (err != nil) != (want != "") || err != nil && (!errors.Is(err, errno) || !strings.Contains(err.Error(), want)) {
			t.Errorf("after %v: %v", errno, err)
		}
	}
	r.Requests(unix.ENOMEM, unix.RTM_GETNEIGH)
	if err := m.dropNeighbors(); !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "listing neighbors of plainroute0: ") {
		t.Errorf("got %v", err)
	}
	r.Nothing()
}

// An agent without a socket does not start and reports the error; a socket that fails later is
// reported.
func TestRefusedSocketsAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.must(m.rtnetlink.close())
	seccomp.RefuseSockets(t, unix.ENFILE, unix.AF_NETLINK, unix.NETLINK_ROUTE)
	if k, err := New(m.cfg); k != nil || !errors.Is(err, unix.ENFILE) || !strings.Contains(err.Error(), "opening netlink: ") {
		t.Errorf("New returned %v, %v", k, err)
	}
	m.Forget()
	if _, err := m.Observe(t.Context()); !errors.Is(err, unix.ENFILE) {
		t.Errorf("Observe: %v", err)
	}
	m.fresh.routes, m.fresh.ours = true, false
	if _, err := m.Observe(t.Context()); !errors.Is(err, unix.ENFILE) || !strings.Contains(err.Error(), "listing routes of ours: ") {
		t.Errorf("Observe of ours alone: %v", err)
	}
	err := m.Apply(t.Context(), routes(plan.Delete, values(m.routes.ours[:1])...))
	refused := new(RouteError)
	if !errors.As(err, &refused) || !errors.Is(err, unix.ENFILE) || refused.FailedRoute() != *m.routes.ours[0] {
		t.Errorf("Apply: %v", err)
	}
}

// An address that a device can't have names the setting that forbids it, and a setting that this
// kernel lacks is named.
func TestRefusalsNameTheSetting(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.settle(nodes(2))
	m.sysctl("net/ipv6/conf/"+topology.Bridge+"/disable_ipv6", "1")
	gateway := topology.Address{Dev: topology.Bridge, Prefix: netip.MustParsePrefix("fd02::1/64")}
	err := m.Apply(t.Context(), addresses(plan.Add, gateway))
	if !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "(IPv6 is switched off on that device: net/ipv6/conf/plainroute0/disable_ipv6)") {
		t.Errorf("got %v", err)
	}
	for path, errno := range map[string]unix.Errno{"net/ipv4/no_such_setting": unix.ENOENT, topology.SysctlForward4: unix.EINVAL} {
		err := m.Apply(t.Context(), plan.Of(plan.Replace, plan.Sysctl{Path: path, Value: "nonsense"}))
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), "setting "+path+"=nonsense: ") {
			t.Errorf("%s: %v", path, err)
		}
	}
	m.settle(nodes(2))
}
