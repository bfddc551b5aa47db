package inspect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// A pod's namespace is found, with its addresses, wherever its port is, and also without a port or
// an address.
func TestPeerNamespaces(t *testing.T) {
	for name, c := range map[string]struct {
		do          func(*machine, *pod)
		there, mute bool
		ports       int
	}{
		"attached":       {func(*machine, *pod) {}, true, false, 1},
		"port down":      {func(m *machine, p *pod) { m.must(m.nl.LinkSetDown(m.link(p.port))) }, true, false, 1},
		"port taken out": {func(m *machine, p *pod) { m.must(m.nl.LinkSetNoMaster(m.link(p.port))) }, true, false, 1},
		"in another bridge": {func(m *machine, p *pod) {
			m.addBridge("docker0")
			m.must(m.nl.LinkSetMaster(m.link(p.port), m.link("docker0")))
		}, true, false, 1},
		"bridge down":    {func(m *machine, _ *pod) { m.must(m.nl.LinkSetDown(m.link(topology.Bridge))) }, true, false, 1},
		"bridge deleted": {func(m *machine, _ *pod) { m.must(m.nl.LinkDel(m.link(topology.Bridge))) }, true, false, 1},
		"device renamed and down": {func(m *machine, p *pod) {
			eth0, err := p.nl.LinkByName("eth0")
			m.must(err)
			m.must(p.nl.LinkSetDown(eth0))
			m.must(p.nl.LinkSetName(eth0, "net0"))
		}, true, false, 1},
		"address taken off": {func(m *machine, p *pod) {
			eth0, err := p.nl.LinkByName("eth0")
			m.must(err)
			addrs, err := p.nl.AddrList(eth0, rtnl.FAMILY_ALL)
			m.must(err)
			for _, a := range addrs {
				m.must(p.nl.AddrDel(eth0, &a))
			}
		}, true, true, 1},
		"cable cut": {func(m *machine, p *pod) { m.must(m.nl.LinkDel(m.link(p.port))) }, true, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.addBridge(topology.Bridge)
			inspector := m.inspector()
			pod := m.attach("vethpod", "10.128.0.2/24", "fd01::2/64")
			c.do(m, pod)
			peers, err := inspector.PeerNamespaces(topology.Bridge)
			m.must(err)
			if len(peers) != 1 || len(peers[0].Ports) != c.ports || peers[0].Foreign != (name == "in another bridge") {
				t.Fatalf("peers: %+v", peers)
			}
			want := pod.addrs
			if c.mute {
				want = nil
			}
			if !slices.Equal(peers[0].Addrs, want) {
				t.Errorf("it has %v, want %v", peers[0].Addrs, want)
			}
		})
	}
}

// A namespace that seems to be gone by one answer is left out only if the kernel no longer lists
// it.
func TestPeerNamespaceThatSeemsToBeGone(t *testing.T) {
	m := newMachine(t)
	m.addBridge(topology.Bridge)
	inspector := m.inspector()
	m.attach("vethpod", "10.128.0.2/24", "fd01::2/64")
	peers, err := inspector.PeerNamespaces(topology.Bridge)
	m.must(err)
	if len(peers) != 1 {
		t.Fatalf("peers: %+v", peers)
	}
	const never = 1 << 20
	if _, err := inspector.addrsOf(never); !errors.Is(err, unix.EINVAL) {
		t.Errorf("of a namespace that is not there, the kernel returns: %v", err)
	}
	there, err := inspector.stillListed([]PeerNamespace{{ID: never}, {ID: peers[0].ID}})
	m.must(err)
	if len(there) != 1 || there[0].ID != peers[0].ID {
		t.Errorf("still there: %+v", there)
	}
}

// On a node that is itself a container, as one of kind, the host is not a pod.
func TestAHostIsAnUplink(t *testing.T) {
	m := newMachine(t)
	outside, nl := m.newNamespace()
	m.must(m.nl.LinkSetNsFd(m.link("eth0-peer"), int(outside)))
	peer, err := nl.LinkByName("eth0-peer")
	m.must(err)
	m.must(nl.LinkSetUp(peer))
	m.must(nl.AddrAdd(peer, &rtnl.Addr{IPNet: ipNet("192.168.1.1/24")}))
	lo, err := nl.LinkByName("lo")
	m.must(err)
	m.must(nl.LinkSetUp(lo))
	inspector := m.inspector()
	peers, err := inspector.PeerNamespaces(topology.Bridge)
	m.must(err)
	want := []netip.Addr{netip.MustParseAddr("192.168.1.1")}
	if len(peers) != 1 || !peers[0].Foreign || !slices.Equal(peers[0].Addrs, want) {
		t.Errorf("peers: %+v", peers)
	}
}

// A container of another bridge is foreign; a pod whose port is in no bridge may be ours.
func TestAContainerOfAnotherBridge(t *testing.T) {
	m := newMachine(t)
	m.addBridge(topology.Bridge)
	pod := m.attach("vethpod", "10.128.0.2/24", "fd01::2/64")
	inspector := m.inspector()
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
		peers, err := inspector.PeerNamespaces(topology.Bridge)
		m.must(err)
		if len(peers) != 1 || peers[0].Foreign != c.foreign {
			t.Errorf("in %q: %+v", c.master, peers)
		}
	}
}

// Without the right to read a namespace it is listed without addresses.
func TestPeerNamespaceThatCantBeRead(t *testing.T) {
	m := newMachine(t)
	m.addBridge(topology.Bridge)
	m.attach("vethpod", "10.128.0.2/24", "fd01::2/64")
	inspector := m.inspector()
	_, err := inspector.namespaceIDs() // opens the socket
	m.must(err)
	m.withoutNetAdmin()
	peers, err := inspector.PeerNamespaces(topology.Bridge)
	m.must(err)
	if len(peers) != 1 || len(peers[0].Addrs) > 0 {
		t.Errorf("peers: %+v", peers)
	}
}

func ipNet(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// withoutNetAdmin drops CAP_NET_ADMIN of the test's thread.
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

// A namespace is foreign to a bridge if a port that leads there has an address here, or if all its
// ports are in other bridges. Other devices that lead to it don't count.
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
		return rtnl.Addr{LinkIndex: index, IPNet: ipNet(s)}
	}
	addrs := []rtnl.Addr{addr(1, "10.128.0.1/24"), addr(15, "192.168.1.11/24"), addr(15, "fe80::1/64"), addr(21, "fe80::2/64")}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	ports, foreign := peerPorts(links, names, addrs, topology.Bridge)
	if got, want := fmt.Sprint(ports), "map[0:[10] 1:[11] 2:[12] 3:[13 14] 4:[15 16] 5:[17 18] 7:[21]]"; got != want {
		t.Errorf("ports are %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(foreign), "map[0:false 1:true 2:false 3:false 4:true 5:true 7:false]"; got != want {
		t.Errorf("foreign are %s, want %s", got, want)
	}
}

// A refused second list is reported. Without doubtful namespaces there is none.
func TestRefusedListOfDoubtfulNamespacesIsReported(t *testing.T) {
	m := newMachine(t)
	inspector := m.inspector()
	_, err := inspector.namespaceIDs() // opens the socket
	m.must(err)
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, unix.RTM_GETNSID)
	defer r.Nothing()
	if there, err := inspector.stillListed([]PeerNamespace{{ID: 1}}); len(there) > 0 || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "listing network namespaces again: ") {
		t.Errorf("got %v, %v", there, err)
	}
	if there, err := inspector.stillListed(nil); len(there) > 0 || err != nil {
		t.Errorf("got %v, %v", there, err)
	}
}

// Each namespace has its ID, ports and addresses. One that can't be read has no addresses.
func TestSeveralPeerNamespaces(t *testing.T) {
	m := newMachine(t)
	m.addBridge(topology.Bridge)
	m.attach("vetha", "10.128.0.2/24")
	m.attach("vethb", "10.128.0.3/24")
	inspector := m.inspector()
	want, err := inspector.PeerNamespaces(topology.Bridge)
	m.must(err)
	if len(want) != 2 || want[0].ID == want[1].ID || slices.Equal(want[0].Addrs, want[1].Addrs) || len(want[0].Ports) != 1 || len(want[1].Ports) != 1 {
		t.Fatalf("got %+v", want)
	}
	r := seccomp.NewRefuser(t)
	const before, families = 3, 2 // links, addresses and namespaces; then the addresses of each, by family
	for i := range want {
		end := r.Nth(unix.EINVAL, before+families*i+1)
		got, err := inspector.PeerNamespaces(topology.Bridge)
		end()
		m.must(err)
		mute := want[i]
		mute.Addrs = nil
		if !reflect.DeepEqual(got, []PeerNamespace{want[1-i], mute}) {
			t.Errorf("without an answer of %d: %+v", want[i].ID, got)
		}
	}
	asked := 0
	r.Set(func(sent []uint16) unix.Errno {
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
	if got, err := inspector.PeerNamespaces(topology.Bridge); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("without a second look at namespaces: %+v, %v", got, err)
	}
	r.Nothing()
}

// The error for a namespace that the kernel hides is not a failure. An interrupted dump is one.
func TestHiddenAddresses(t *testing.T) {
	for err, want := range map[error]bool{unix.EACCES: true, unix.EPERM: true, unix.EAFNOSUPPORT: true, unix.EOPNOTSUPP: true, unix.EINVAL: false, unix.ENOMEM: false, rtnl.ErrDumpInterrupted: false} {
		if hides(err) != want {
			t.Errorf("%v: hides %t", err, !want)
		}
	}
}

// Each refused request is reported with what it reads. A namespace that still exists is returned
// without addresses.
func TestRefusedPeerNamespacesAreReported(t *testing.T) {
	m := newMachine(t)
	m.addBridge(topology.Bridge)
	m.attach("vethpod", "10.128.0.2/24")
	i := m.inspector()
	peers, err := i.PeerNamespaces(topology.Bridge)
	m.must(err)
	if len(peers) != 1 || len(peers[0].Addrs) != 1 {
		t.Fatalf("got %+v", peers)
	}
	r := seccomp.NewRefuser(t)
	for n, want := range []string{"listing links: ", "listing addresses: ", "listing network namespaces: ", "listing addresses in network namespace "} {
		end := r.Nth(unix.ENOMEM, n+1)
		_, err := i.PeerNamespaces(topology.Bridge)
		if end(); !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("without request %d: %v", n+1, err)
		}
	}
	end := r.Nth(unix.EINVAL, 4)
	peers, err = i.PeerNamespaces(topology.Bridge)
	if end(); err != nil || len(peers) != 1 || len(peers[0].Addrs) != 0 {
		t.Errorf("of one that is there and gives no answer: %+v, %v", peers, err)
	}
}

// The kernel sends -1 for a namespace that has no ID here.
func TestNamespaceOfAMessage(t *testing.T) {
	native := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	message := func(kind uint16, value []byte) []byte {
		b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: kind, Data: value}})
		if err != nil {
			t.Fatal(err)
		}
		return append(make([]byte, rtgenHeader), b...)
	}
	for name, c := range map[string]struct {
		kind    uint16
		message []byte
		want    int
		ok      bool
	}{
		"one":               {unix.RTM_NEWNSID, message(unix.NETNSA_NSID, native(7)), 7, true},
		"none":              {unix.RTM_NEWNSID, message(unix.NETNSA_NSID, native(1<<32-1)), -1, true},
		"of another kind":   {unix.RTM_DELNSID, message(unix.NETNSA_NSID, native(7)), 0, false},
		"too short":         {unix.RTM_NEWNSID, make([]byte, 3), 0, false},
		"without a number":  {unix.RTM_NEWNSID, message(unix.NETNSA_PID, native(7)), 0, false},
		"of a short number": {unix.RTM_NEWNSID, message(unix.NETNSA_NSID, []byte{7}), 0, false},
	} {
		if got, ok := parseNamespaceID(c.kind, c.message); got != c.want || ok != c.ok {
			t.Errorf("%s: %d, %t", name, got, ok)
		}
	}
}
