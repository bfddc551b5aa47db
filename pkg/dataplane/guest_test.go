package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
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

// A namespace is foreign to a bridge if a port that leads there has an address here, or none is in that bridge or in no
// bridge. Other devices that lead to it don't count.
func TestForeignNamespaces(t *testing.T) {
	veth := func(index, master, id int) rtnl.Link {
		return &rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Index: index, Name: "veth" + strconv.Itoa(index), MasterIndex: master, NetNsID: id}}
	}
	links := []rtnl.Link{
		&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Index: 1, Name: topology.Bridge, NetNsID: -1}},
		&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Index: 2, Name: "docker0", NetNsID: -1}},
		veth(10, 1, 0),                 // a pod's
		veth(11, 2, 1),                 // another network's
		veth(12, 0, 2),                 // in no bridge
		veth(13, 2, 3), veth(14, 1, 3), // in both
		veth(15, 0, 4), veth(16, 1, 4), // one of them with an address
		veth(17, 2, 5), veth(18, 2, 5), // both in another
		veth(19, 0, -1), // both ends are here
		&rtnl.Vlan{LinkAttrs: rtnl.LinkAttrs{Index: 20, Name: "vlan20", NetNsID: 6}},
		veth(21, 0, 7), // with a link-local address
	}
	addr := func(index int, s string) rtnl.Addr {
		return rtnl.Addr{LinkIndex: index, IPNet: ipNet(netip.MustParsePrefix(s))}
	}
	addrs := []rtnl.Addr{addr(1, "10.128.0.1/24"), addr(15, "192.168.1.11/24"), addr(15, "fe80::1/64"), addr(21, "fe80::2/64")}
	ports, foreign := guestPorts(links, addrs, topology.Bridge)
	if got, want := fmt.Sprint(ports), "map[0:[10] 1:[11] 2:[12] 3:[13 14] 4:[15 16] 5:[17 18] 7:[21]]"; got != want {
		t.Errorf("ports are %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(foreign), "map[0:false 1:true 2:false 3:false 4:true 5:true 7:false]"; got != want {
		t.Errorf("foreign are %s, want %s", got, want)
	}
}

// A look at namespaces again that is refused is reported, and without doubt there is none.
func TestRefusedLookAtDoubtfulGuestsIsTold(t *testing.T) {
	m := newMachine(t)
	inspector, err := NewInspector()
	m.must(err)
	defer inspector.Close()
	m.must(inspector.rtnetlink.open())
	r := newRefuser(t)
	r.requests(unix.ENOMEM, unix.RTM_GETNSID)
	defer r.nothing()
	if there, err := inspector.stillThere([]Guest{{ID: 1}}); len(there) > 0 || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "listing network namespaces again: ") {
		t.Errorf("got %v, %v", there, err)
	}
	if there, err := inspector.stillThere(nil); len(there) > 0 || err != nil {
		t.Errorf("got %v, %v", there, err)
	}
}

// Each namespace is seen with its number, ports and addresses, also one that gives no answer, of which the addresses are
// not known.
func TestSeveralGuests(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addPod("vetha", "10.128.0.2/24")
	m.addPod("vethb", "10.128.0.3/24")
	inspector, err := NewInspector()
	m.must(err)
	defer inspector.Close()
	want, err := inspector.Guests(topology.Bridge)
	m.must(err)
	if len(want) != 2 || want[0].ID == want[1].ID || slices.Equal(want[0].Addrs, want[1].Addrs) || len(want[0].Ports) != 1 || len(want[1].Ports) != 1 {
		t.Fatalf("got %+v", want)
	}
	r := newRefuser(t)
	const before, families = 3, 2 // links, addresses and namespaces; then the addresses of each, by family
	for i := range want {
		end := r.nth(unix.EINVAL, before+families*i+1)
		got, err := inspector.Guests(topology.Bridge)
		end()
		m.must(err)
		mute := want[i]
		mute.Addrs = nil
		if !reflect.DeepEqual(got, []Guest{want[1-i], mute}) {
			t.Errorf("without an answer of %d: %+v", want[i].ID, got)
		}
	}
	asked := 0
	r.set(func(sent []uint16) unix.Errno {
		switch {
		case slices.Contains(sent, unix.RTM_GETNSID):
			if asked++; asked > 1 {
				return unix.ENOMEM
			}
		case asked > 0:
			return unix.EINVAL
		}
		return 0
	})
	if got, err := inspector.Guests(topology.Bridge); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("without a second look at namespaces: %+v, %v", got, err)
	}
	r.nothing()
}

// What the kernel says of a namespace that it does not show is no failure. A dump that a change interrupted is one.
func TestHiddenAddresses(t *testing.T) {
	for err, want := range map[error]bool{unix.EACCES: true, unix.EPERM: true, unix.EAFNOSUPPORT: true, unix.EOPNOTSUPP: true, unix.EINVAL: false, unix.ENOMEM: false} {
		if hides(err) != want || !errors.Is(interrupted(false, err), err) || !errors.Is(interrupted(true, err), err) {
			t.Errorf("%v: hides %t", err, !want)
		}
	}
	if err := interrupted(false, nil); !errors.Is(err, rtnl.ErrDumpInterrupted) || interrupted(true, nil) != nil {
		t.Errorf("a dump that is not whole: %v", err)
	}
}
