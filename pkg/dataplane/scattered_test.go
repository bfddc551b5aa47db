package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"

	"github.com/plainroute/plainroute/pkg/topology"
)

// scattered are n Nodes of whose pod subnets no two are adjacent, so that none can be merged into
// one range.
func scattered(n int) []*topology.Node {
	all := nodes(n)
	for i, node := range all {
		v4 := 10<<24 | 128<<16 | uint32(i)<<5
		node.PodCIDRs = []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v4 >> 24), byte(v4 >> 16), byte(v4 >> 8), byte(v4)}), 28),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 5: byte(i >> 15), 6: byte(i >> 7), 7: byte(i << 1)}), 64),
		}
		if i > 0 {
			node.Addrs[0] = netip.AddrFrom4([4]byte{192, 168, 1, byte(12 + i%240)})
		}
	}
	return all
}

// Without --cluster-cidr each pod subnet is an element of its own, and the library cuts long
// messages off in silence: every element is read back, by other means than ours.
func TestScatteredSubnetsAreAllThere(t *testing.T) {
	m := newMachine(t)
	all := scattered(5000)
	m.settle(all)
	for which, set := range []string{"cluster4", "cluster6"}[:m.families()] {
		missing := map[string]bool{}
		for _, node := range all {
			missing[rangeOf(node.PodCIDRs[which])] = true
		}
		for _, element := range m.ranges(set) {
			if !missing[element] {
				t.Errorf("%s has %s, which is not desired", set, element)
			}
			delete(missing, element)
		}
		if len(missing) > 0 {
			t.Errorf("%s lacks %d of %d elements", set, len(missing), len(all))
		}
	}
	if n := len(m.ours()); n != m.families()*len(all) {
		t.Errorf("%d routes of ours, want %d", n, m.families()*len(all))
	}
}

// rangeOf is a prefix as nftables has it: from its first address to the one after its last.
func rangeOf(p netip.Prefix) string {
	end := p.Addr().AsSlice()
	for bit := p.Bits() - 1; ; bit-- {
		mask := byte(0x80) >> (bit % 8)
		if end[bit/8] ^= mask; end[bit/8]&mask != 0 {
			break
		}
	}
	after, _ := netip.AddrFromSlice(end)
	return fmt.Sprintf("%s-%s", p.Addr(), after)
}

// ranges are the elements of a set of ours.
func (m *machine) ranges(set string) []string {
	m.t.Helper()
	conn, err := nftables.New()
	m.must(err)
	table := &nftables.Table{Name: "plainroute", Family: nftables.TableFamilyINet}
	named, err := conn.GetSetByName(table, set)
	m.must(err)
	elements, err := conn.GetSetElements(named)
	m.must(err)
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) })
	if len(elements)%2 != 0 || elements[0].IntervalEnd {
		// The kernel shows an end for all that is below the first element.
		elements = elements[1:]
	}
	var all []string
	for i := 0; i+1 < len(elements); i += 2 {
		if elements[i].IntervalEnd || !elements[i+1].IntervalEnd {
			m.t.Fatalf("element %d of %s has no end", i, set)
		}
		from, _ := netip.AddrFromSlice(elements[i].Key)
		end, _ := netip.AddrFromSlice(elements[i+1].Key)
		all = append(all, fmt.Sprintf("%s-%s", from, end))
	}
	return all
}
