package dataplane

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/topology"
)

// What names the source address on a link is read back as it was written, and goes when the link has no other address.
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

// table reads our table anew.
func (m *machine) table() *topology.Masquerade {
	m.t.Helper()
	m.Forget()
	state, err := m.Observe(context.Background())
	m.must(err)
	return state.Masquerade
}
