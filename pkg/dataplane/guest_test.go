package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A pod's addresses are seen wherever its port is, also when its cable or its address is gone it is a guest, and a
// namespace that ends is none any more.
func TestGuests(t *testing.T) {
	for name, c := range map[string]struct {
		do          func(*machine, *realPod)
		there, mute bool
		ports       int
	}{
		"attached":          {func(*machine, *realPod) {}, true, false, 1},
		"port down":         {func(m *machine, p *realPod) { m.must(m.nl.LinkSetDown(m.link(p.port))) }, true, false, 1},
		"port taken out":    {func(m *machine, p *realPod) { m.must(m.nl.LinkSetNoMaster(m.link(p.port))) }, true, false, 1},
		"in another bridge": {func(m *machine, p *realPod) { m.into(p.port, "docker0") }, true, false, 1},
		"bridge down":       {func(m *machine, _ *realPod) { m.must(m.nl.LinkSetDown(m.link(topology.Bridge))) }, true, false, 1},
		"bridge deleted":    {func(m *machine, _ *realPod) { m.must(m.nl.LinkDel(m.link(topology.Bridge))) }, true, false, 1},
		"device renamed and down": {func(m *machine, p *realPod) {
			eth0, err := p.nl.LinkByName("eth0")
			m.must(err)
			m.must(p.nl.LinkSetDown(eth0))
			m.must(p.nl.LinkSetName(eth0, "net0"))
		}, true, false, 1},
		"address taken off": {func(m *machine, p *realPod) {
			eth0, err := p.nl.LinkByName("eth0")
			m.must(err)
			addrs, err := p.nl.AddrList(eth0, rtnl.FAMILY_ALL)
			m.must(err)
			for _, a := range addrs {
				m.must(p.nl.AddrDel(eth0, &a))
			}
		}, true, true, 1},
		"cable cut": {func(m *machine, p *realPod) { m.must(m.nl.LinkDel(m.link(p.port))) }, true, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.settle(nodes(2))
			inspector, err := NewInspector()
			m.must(err)
			defer inspector.Close()
			pod := m.attach("pod")
			c.do(m, pod)
			guests, err := inspector.Guests(topology.Bridge)
			m.must(err)
			if len(guests) != 1 || len(guests[0].Ports) != c.ports || guests[0].Foreign != (name == "in another bridge") {
				t.Fatalf("guests: %+v", guests)
			}
			want := pod.addrs
			if c.mute {
				want = nil
			}
			if !slices.Equal(guests[0].Addrs, want) {
				t.Errorf("it has %v, want %v", guests[0].Addrs, want)
			}
		})
	}
}

// An answer by which a namespace seems to be gone is believed only if the kernel lists it no more.
func TestAGuestThatSeemsToBeGone(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	inspector, err := NewInspector()
	m.must(err)
	defer inspector.Close()
	m.attach("pod")
	guests, err := inspector.Guests(topology.Bridge)
	m.must(err)
	if len(guests) != 1 {
		t.Fatalf("guests: %+v", guests)
	}
	const never = 1 << 20
	if _, err := inspector.addrsOf(never); !errors.Is(err, unix.EINVAL) {
		t.Errorf("of a namespace that is not there, the kernel says: %v", err)
	}
	there, err := inspector.stillThere([]Guest{{ID: never}, {ID: guests[0].ID}})
	m.must(err)
	if len(there) != 1 || there[0].ID != guests[0].ID {
		t.Errorf("still there: %+v", there)
	}
}

// A node that is itself a guest, as one of kind, does not take its host for a pod.
func TestAHostIsAnUplink(t *testing.T) {
	m := newMachine(t)
	outside := m.newSandbox()
	m.connect(outside)
	peer, err := outside.nl.LinkByName("eth0-peer")
	m.must(err)
	m.must(outside.nl.AddrAdd(peer, &rtnl.Addr{IPNet: ipNet(netip.MustParsePrefix("192.168.1.1/24"))}))
	lo, err := outside.nl.LinkByName("lo")
	m.must(err)
	m.must(outside.nl.LinkSetUp(lo))
	inspector, err := NewInspector()
	m.must(err)
	defer inspector.Close()
	guests, err := inspector.Guests(topology.Bridge)
	m.must(err)
	want := []netip.Addr{netip.MustParseAddr("192.168.1.1")}
	if len(guests) != 1 || !guests[0].Foreign || !slices.Equal(guests[0].Addrs, want) {
		t.Errorf("guests: %+v", guests)
	}
}

// A container of another bridge is foreign; a pod whose port is in none may be ours.
func TestAContainerOfAnotherBridge(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	pod := m.attach("pod")
	inspector, err := NewInspector()
	m.must(err)
	defer inspector.Close()
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "docker0"}}))
	for _, c := range []struct {
		master  string
		foreign bool
	}{{"docker0", true}, {topology.Bridge, false}, {"", false}} {
		if c.master == "" {
			m.must(m.nl.LinkSetNoMaster(m.link(pod.port)))
		} else {
			m.must(m.nl.LinkSetMaster(m.link(pod.port), m.link(c.master)))
		}
		guests, err := inspector.Guests(topology.Bridge)
		m.must(err)
		if len(guests) != 1 || guests[0].Foreign != c.foreign {
			t.Errorf("in %q: %+v", c.master, guests)
		}
	}
}

// Who may not look into a namespace sees that it is there, and no address.
func TestAGuestThatCantBeLookedInto(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.attach("pod")
	inspector, err := NewInspector()
	m.must(err)
	defer inspector.Close()
	m.must(inspector.rtnetlink.open())
	m.withoutNetAdmin()
	guests, err := inspector.Guests(topology.Bridge)
	m.must(err)
	if len(guests) != 1 || len(guests[0].Addrs) > 0 {
		t.Errorf("guests: %+v", guests)
	}
}

// withoutNetAdmin takes CAP_NET_ADMIN off the test's thread.
func (m *machine) withoutNetAdmin() {
	m.t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	m.must(unix.Capget(&header, &data[0]))
	all := data
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	m.must(unix.Capset(&header, &data[0]))
	m.t.Cleanup(func() { m.must(unix.Capset(&header, &all[0])) })
}
