package dataplane

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// addBridge makes the pods' bridge if it is not there, as the plugins do, with addresses, a MAC
// address that stays, and a pod on it.
func (m *machine) addBridge(addrs ...string) {
	m.t.Helper()
	if err := m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}}); !errors.Is(err, unix.EEXIST) {
		m.must(err)
	}
	m.up(topology.Bridge)
	have := m.bridgeAddrs()
	for _, a := range m.known(addrs...) {
		if !slices.Contains(have, a) {
			m.addr(topology.Bridge, a)
		}
	}
	m.must(m.nl.LinkSetHardwareAddr(m.link(topology.Bridge), m.link(topology.Bridge).Attrs().HardwareAddr))
	m.addVeth("vethpod", 1500)
	m.must(m.nl.LinkSetMaster(m.link("vethpod"), m.link(topology.Bridge)))
}

func (m *machine) bridgeAddrs() []string {
	m.t.Helper()
	addrs, err := m.nl.AddrList(m.link(topology.Bridge), rtnl.FAMILY_ALL)
	m.must(err)
	var all []string
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			all = append(all, a.IPNet.String())
		}
	}
	slices.Sort(all)
	return all
}

// The plugin gives the bridge its addresses when it attaches the first pod, and
// never looks at them again.
func TestBridgeAddressesComeBack(t *testing.T) {
	m := newMachine(t)
	m.addBridge("10.128.0.1/24", "fd01::1/64", "192.0.2.53/32")
	want := m.bridgeAddrs()
	news := m.watchSettled(nodes(2))
	for _, s := range m.known("10.128.0.1/24", "fd01::1/64") {
		a, err := rtnl.ParseAddr(s)
		m.must(err)
		m.must(m.nl.AddrDel(m.link(topology.Bridge), a))
		m.expect(news, "the loss of "+s)
		m.settle(nodes(2))
		if got := m.bridgeAddrs(); !slices.Equal(got, want) {
			t.Errorf("without %s the bridge got %v, want %v", s, got, want)
		}
	}
}

// After our own subnet has changed, the objects of its pods stay until the last of them is gone.
// Addresses that another program added to the bridge stay.
func TestOwnSubnetChangesUnderPods(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addBridge("10.128.0.1/24", "fd01::1/64", "192.0.2.53/32")
	m.lease("10.128.0.2")
	m.settle(nodes(2))
	moved := nodes(10)[9:]
	moved[0].Name, moved[0].Addrs = "node1", nodes(1)[0].Addrs
	moved[0].PodCIDRs[1] = nodes(1)[0].PodCIDRs[1]
	m.settleOwnFault(moved, problem.SubnetChanged)
	if got, want := m.bridgeAddrs(), m.known("10.128.0.1/24", "192.0.2.53/32", "fd01::1/64"); !slices.Equal(got, want) {
		t.Errorf("under pods the bridge has %v, want %v", got, want)
	}
	if got := m.Config().Subnets[0].String(); got != "10.128.0.0/24" {
		t.Errorf("under pods the config has %s", got)
	}

	m.must(m.nl.LinkDel(m.link("vethpod")))
	m.settle(moved)
	if got, want := m.bridgeAddrs(), m.known("10.128.9.1/24", "192.0.2.53/32", "fd01::1/64"); !slices.Equal(got, want) {
		t.Errorf("without pods the bridge has %v, want %v", got, want)
	}
	if got := m.Config().Subnets[0].String(); got != "10.128.9.0/24" {
		t.Errorf("without pods the config has %s", got)
	}
}

// Config reads the CNI config back.
func (m *machine) Config() *topology.CNI { return m.cfg.CNI.Read() }

// lease does what host-local does for a pod.
func (m *machine) lease(addr string) { m.t.Helper(); m.leaseTo(addr, "", "") }

func (m *machine) leaseTo(addr, container, device string) {
	m.t.Helper()
	dir := filepath.Join(m.dir, "run", topology.IPAMDir, topology.Network)
	m.must(os.MkdirAll(dir, 0o755))
	m.must(os.WriteFile(filepath.Join(dir, addr), []byte(container+"\r\n"+device), 0o644))
}

// Watch notifies of all changes of our config.
func TestConfigIsWatched(t *testing.T) {
	for name, disturb := range map[string]func(link, target string) error{
		"deleted":      func(link, _ string) error { return os.Remove(link) },
		"truncated":    func(_, target string) error { return os.Truncate(target, 10) },
		"dangling":     func(_, target string) error { return os.Remove(target) },
		"overwritten":  func(_, target string) error { return os.WriteFile(target, []byte("{}"), 0o600) },
		"renamed away": func(link, _ string) error { return os.Rename(link, link+".bak") },
		"made a file":  func(link, _ string) error { return os.Rename(link+".other", link) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			link := filepath.Join(m.dir, "net.d", topology.Conflist)
			m.must(os.WriteFile(link+".other", []byte("{}"), 0o644))
			news := m.watchSettled(nodes(2))
			m.must(disturb(link, filepath.Join(m.dir, "run", topology.Conflist)))
			m.expect(news, name)
			drain(news, shortly)
			if !m.pass(nodes(2)).Has(plan.KindCNI) {
				t.Error("the pass after it found nothing to do")
			}
			if got := m.Config(); got == nil || len(got.Subnets) != m.families() {
				t.Errorf("the config is %+v", got)
			}
		})
	}
}

// A pod that was attached since cleanup's read is not cut off.
func TestBridgeWithPortsIsNotDeleted(t *testing.T) {
	m := newMachine(t)
	m.addBridge("10.128.0.1/24")
	gone := plan.Of(plan.Delete, bridge(topology.Bridge))
	if err := m.Apply(context.Background(), gone); err == nil || !strings.Contains(err.Error(), "it has got 1 ports meanwhile") {
		t.Errorf("got %v", err)
	}
	m.link(topology.Bridge)
	m.must(m.nl.LinkDel(m.link("vethpod")))
	for range 2 {
		m.must(m.Apply(context.Background(), gone))
	}
	if _, err := m.nl.LinkByName(topology.Bridge); err == nil {
		t.Error("the bridge is still there")
	}
}

// The bridge's addresses connect pods only with their routes, which another program may delete, or
// omit by noprefixroute.
func TestConnectedRouteComesBack(t *testing.T) {
	connected := func(m *machine) []rtnl.Route {
		var all []rtnl.Route
		for _, family := range []int{rtnl.FAMILY_V4, rtnl.FAMILY_V6} {
			routes, err := m.nl.RouteListFiltered(family, &rtnl.Route{LinkIndex: m.link(topology.Bridge).Attrs().Index, Table: unix.RT_TABLE_MAIN}, rtnl.RT_FILTER_OIF|rtnl.RT_FILTER_TABLE)
			m.must(err)
			all = append(all, slices.DeleteFunc(routes, func(r rtnl.Route) bool { return r.Dst == nil || r.Dst.IP.IsLinkLocalUnicast() })...)
		}
		return all
	}
	for name, disturb := range map[string]func(*machine){
		"deleted": func(m *machine) {
			for _, r := range connected(m) {
				m.must(m.nl.RouteDel(&r))
			}
		},
		"address without": func(m *machine) {
			a, err := rtnl.ParseAddr("10.128.0.1/24")
			m.must(err)
			m.must(m.nl.AddrDel(m.link(topology.Bridge), a))
			a.Flags = unix.IFA_F_NOPREFIXROUTE
			m.must(m.nl.AddrAdd(m.link(topology.Bridge), a))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.settle(nodes(2))
			m.addPod("vethpod", "10.128.0.2/24", "fd01::2/64")
			news := m.watchSettled(nodes(2))
			before := len(connected(m))
			disturb(m)
			for found := false; !found; {
				m.expect(news, name)
				found = !m.pass(nodes(2)).Empty()
			}
			m.settle(nodes(2))
			if got := connected(m); before != m.families() || len(got) != before {
				t.Errorf("%d routes of the bridge, and %d before: %v", len(got), before, got)
			}
		})
	}
}
