package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// A rule that sets the source address on a link is read back as it was written, and goes when the
// link has no other address.
func TestEgressIsReadBack(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.addr("eth0", "192.168.1.200/24")
	m.addr("eth0", "fd00:192:168:1::200/64")
	all := nodes(3)
	slices.Reverse(all[0].PodCIDRs) // IPv6 first
	m.settle(all)
	want := []topology.Egress{{Dev: "eth0", Addr: netip.MustParseAddr("192.168.1.11")}, {Dev: "eth0", Addr: netip.MustParseAddr("fd00:192:168:1::11")}}
	if got := m.table().Egress; !slices.Equal(got, want) {
		t.Fatalf("egress %v, want %v", got, want)
	}
	gone, err := rtnl.ParseAddr("fd00:192:168:1::200/64")
	m.must(err)
	m.must(m.nl.AddrDel(m.eth0, gone))
	m.settle(all)
	if got := m.table().Egress; !slices.Equal(got, want[:1]) {
		t.Errorf("egress %v, want %v", got, want[:1])
	}
}

// A table has sets and rules of the families that it masquerades, and is stable with one alone.
func TestTableOfOneFamily(t *testing.T) {
	for i, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			m := newMachine(t)
			if i > 0 {
				m.needIPv6()
			}
			all := nodes(3)
			all[0].PodCIDRs = all[0].PodCIDRs[i : i+1]
			m.settle(all)
			sets, err := m.nft.GetSets(nftTable)
			m.must(err)
			if len(sets) != 2 {
				t.Errorf("%d sets, want those of one family", len(sets))
			}
		})
	}
}

// table reads our table again.
func (m *machine) table() *topology.Masquerade {
	m.t.Helper()
	m.Forget()
	state, err := m.Observe(context.Background())
	m.must(err)
	return state.Masquerade
}

// A connection for our table takes the place of the one before, which is closed, and has room for
// large transactions and for their answers.
func TestConnectionOfTheTableIsReplaced(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	before, port := m.descriptors(), m.nftConn.PID()
	m.must(m.dialNFT())
	if after := m.descriptors(); after != before || m.nftConn.PID() == port {
		t.Errorf("%d files were open, and %d are; the port was %d, and is %d", before, after, port, m.nftConn.PID())
	}
	for _, c := range []*netlink.Conn{m.nftConn, m.events[0]} {
		raw, err := c.SyscallConn()
		m.must(err)
		m.must(raw.Control(func(fd uintptr) {
			for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
				if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); err != nil || n != 2*receiveBuffer && (c == m.nftConn || option == unix.SO_RCVBUF) {
					t.Errorf("option %d is %d, %v", option, n, err)
				}
			}
		}))
	}
	m.must(m.writeTable(m.masquerade))
	nft := m.nft
	seccomp.RefuseCalls(t, unix.ENOMEM, unix.SYS_SETSOCKOPT, map[int]uint32{1: unix.SOL_SOCKET, 2: unix.SO_SNDBUFFORCE})
	seccomp.RefuseCalls(t, unix.ENOMEM, unix.SYS_SETSOCKOPT, map[int]uint32{1: unix.SOL_SOCKET, 2: unix.SO_SNDBUF})
	if err := m.dialNFT(); !errors.Is(err, unix.ENOMEM) || m.nft != nft {
		t.Errorf("a connection without room: %v, and it is used: %t", err, m.nft != nft)
	}
	if err := m.abandon(errNoDevice); !errors.Is(err, errNoDevice) || !errors.Is(err, unix.ENOMEM) {
		t.Errorf("abandoning returns %v", err)
	}
}

// A table that is not there any more is deleted already.
func TestDeletedTableIsDeleted(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	for range 2 {
		m.must(m.Apply(t.Context(), plan.Of(plan.Delete, plan.Table{})))
		if m.masquerade != nil || m.table() != nil {
			t.Error("the table is there still")
		}
	}
}

// After a pass the table counts as written; after a refusal, as before.
func TestRefusedChangeOfTheTableChangesNothing(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	before := m.masquerade
	nobody := plan.SetChange{DeleteNodes: addrs("192.168.77.77"), AddNodes: addrs("192.168.77.78")}
	if err := m.changeSets(nobody); !errors.Is(err, unix.ENOENT) || m.masquerade != before {
		t.Errorf("deleting what is not there: %v, and the table counts as %+v", err, m.masquerade)
	}
	if after := m.table(); !slices.Equal(after.Nodes, before.Nodes) {
		t.Errorf("the set became %v", after.Nodes)
	}
	m.must(m.changeSets(plan.SetChange{
		DeleteNodes: before.Nodes[:1], AddNodes: addrs("192.168.1.200"), DeleteCluster: before.Cluster[:1], AddCluster: prefixes("10.77.0.0/24"),
	}))
	known := *m.masquerade
	if after := m.table(); !slices.Equal(after.Nodes, known.Nodes) || !slices.Equal(after.Cluster, known.Cluster) || slices.Contains(known.Nodes, before.Nodes[0]) || !slices.Contains(known.Cluster, netip.MustParsePrefix("10.77.0.0/24")) {
		t.Errorf("it counts as %+v, and is %+v", known, after)
	}
}
