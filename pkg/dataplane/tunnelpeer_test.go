package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Neighbors and FDB entries that a pass added, changed or deleted are kept, and their notifications
// ask for no other pass.
func TestNotificationsOfOwnPeersAreIgnored(t *testing.T) {
	m, all := tunneled(t)
	time.Sleep(settleTime)
	news := m.watchSettled(all)
	for _, addr := range []string{"192.168.2.14", "192.168.1.13", "192.168.2.13"} {
		moved := *all[2]
		moved.Addrs = []netip.Addr{netip.MustParseAddr(addr), netip.MustParseAddr("fd00:192:168:2::13")}
		all[2] = &moved
		m.pass(all)
		m.quiet(news, "our own changes for "+addr)
		if c := m.diff(all); !c.Empty() {
			t.Errorf("what is kept lacks %v", c)
		}
		m.Forget()
		if c := m.diff(all); !c.Empty() {
			t.Errorf("the kernel lacks %v", c)
		}
	}
}

// What is kept of neighbors and FDB entries follows other programs' changes, and is not read again.
// A group's entry, of which there may be several with one key, makes it stale.
func TestPeersFollowNotifications(t *testing.T) {
	m, all := tunneled(t)
	m.settle(all)
	tunnel := m.tunnel(topology.Tunnel4).Index
	there := m.observe()
	hop, entry := there.Neighbors[0], there.FDB[0]
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	neighbor := func(mac net.HardwareAddr, state int) *rtnl.Neigh {
		return &rtnl.Neigh{LinkIndex: tunnel, IP: hop.Addr.AsSlice(), HardwareAddr: mac, State: state}
	}
	fdb := func(mac net.HardwareAddr, to string) *rtnl.Neigh {
		return &rtnl.Neigh{LinkIndex: tunnel, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT, HardwareAddr: mac, IP: net.ParseIP(to)}
	}
	for name, c := range map[string]struct {
		change  func() error
		follows bool
	}{
		"neighbor deleted":        {func() error { return m.nl.NeighDel(neighbor(hop.MAC[:], unix.NUD_PERMANENT)) }, true},
		"neighbor replaced":       {func() error { return m.nl.NeighSet(neighbor(other, unix.NUD_PERMANENT)) }, true},
		"neighbor no longer ours": {func() error { return m.nl.NeighSet(neighbor(hop.MAC[:], unix.NUD_STALE)) }, true},
		"FDB entry deleted":       {func() error { return m.nl.NeighDel(fdb(entry.MAC[:], entry.Dst.String())) }, true},
		"FDB entry replaced":      {func() error { return m.nl.NeighSet(fdb(entry.MAC[:], "192.168.2.99")) }, true},
		"FDB entry added":         {func() error { return m.nl.NeighSet(fdb(other, "192.168.2.99")) }, true},
		"FDB entry of a group":    {func() error { return m.nl.NeighAppend(fdb(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 9}, "192.168.2.99")) }, false},
		"FDB entry of all others": {func() error { return m.nl.NeighAppend(fdb(make(net.HardwareAddr, 6), "192.168.2.99")) }, false},
	} {
		shown := m.observe()
		before := fmt.Sprint(shown.Neighbors, shown.FDB)
		m.must(c.change())
		m.catchUp()
		if m.fresh.peers != c.follows {
			t.Errorf("%s: what is kept counts as fresh: %t", name, m.fresh.peers)
		}
		if after := fmt.Sprint(shown.Neighbors, shown.FDB); after != before {
			t.Errorf("%s: what was shown became %s", name, after)
		}
		kept := m.diff(all)
		m.Forget()
		if read := m.diff(all); len(kept) == 0 || !slices.Equal(kept, read) {
			t.Errorf("%s: kept lead to %v, those that are there to %v", name, kept, read)
		}
		m.settle(all)
	}
}

// A neighbor of the other family on a tunnel is not ours, whether it is read or announced.
func TestNeighborOfTheOtherFamilyStays(t *testing.T) {
	m, all := tunneled(t)
	m.needIPv6()
	m.settle(all)
	m.observe()
	m.must(m.nl.NeighSet(&rtnl.Neigh{
		LinkIndex: m.tunnel(topology.Tunnel4).Index, IP: net.ParseIP("fd00::99"), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}, State: unix.NUD_PERMANENT,
	}))
	m.catchUp()
	if c := m.diff(all); len(c) > 0 {
		t.Errorf("its notification leads to %v", c)
	}
	m.Forget()
	if c := m.diff(all); len(c) > 0 {
		t.Errorf("a read leads to %v", c)
	}
}
