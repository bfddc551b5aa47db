package dataplane

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// errForeign is returned for a table that differs from ours in anything but its parameters.
var errForeign = errors.New("the table is not as plainroute makes it")

// readTable returns our table, nil if there is none, and an empty Masquerade for a foreign one. No
// desired table is equal to that, so the table is replaced.
func (k *Kernel) readTable() (*topology.Masquerade, error) {
	table, err := k.nft.ListTableOfFamily(topology.Table, nftables.TableFamilyINet)
	m := &topology.Masquerade{}
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err == nil && table.Flags != 0: // dormant: no chain sees a packet; owned: it goes with a process
		err = errForeign
	case err == nil:
		err = k.readChains(m)
	}
	if err == nil && len(m.Sources)+len(m.Tunnels) > 0 {
		err = k.readSets(m)
	}
	switch {
	case errors.Is(err, errForeign):
		return &topology.Masquerade{}, nil
	case err != nil:
		return nil, err
	}
	return m, nil
}

// readChains reads the bridge, pod subnets and egress links for which our chains were made. The
// chains that we would make for them must be those that are there.
func (k *Kernel) readChains(m *topology.Masquerade) error {
	all, err := k.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	counts, err := k.expressions()
	if err != nil {
		return err
	}
	var have []chain
	for _, c := range all {
		if c.Table.Name != topology.Table {
			continue
		}
		rules, err := k.nft.GetRules(nftTable, c)
		if err != nil {
			return err
		}
		found := chain{Chain: c}
		for _, r := range rules {
			if counts[r.Handle] != len(r.Exprs) {
				return errForeign
			}
			guess(m, r.Exprs)
			found.rules = append(found.rules, r.Exprs)
		}
		have = append(have, found)
	}
	slices.SortFunc(m.Egress, topology.Egress.Compare)
	slices.SortFunc(have, func(a, b chain) int { return strings.Compare(a.Name, b.Name) })
	if !reflect.DeepEqual(have, chains(m)) {
		return errForeign
	}
	return nil
}

// guess reads the parameters of a rule of ours, by their places in it. The comparison with rules
// made from them shows whether it is one.
func guess(m *topology.Masquerade, exprs []expr.Any) {
	last := len(exprs) - 1
	switch {
	case at[expr.NAT](exprs, last) != nil: // see translate
		e := topology.Egress{Dev: comparedName(exprs, last-2)}
		if value := at[expr.Immediate](exprs, last-1); value != nil {
			e.Addr, _ = netip.AddrFromSlice(value.Data)
		}
		if e.Addr.IsValid() && !slices.Contains(m.Egress, e) {
			m.Egress = append(m.Egress, e)
		}
	case at[expr.Masq](exprs, last) != nil: // see outside
		if mask, source := at[expr.Bitwise](exprs, 3), at[expr.Cmp](exprs, 4); mask != nil && source != nil {
			m.Sources = append(m.Sources, prefixOf(source.Data, mask.Mask))
		}
	case guessFilter(m, exprs):
	default:
		if name := comparedName(exprs, 1); name != "" {
			m.Bridge = name
		}
	}
}

// at returns the expression at a place of a rule, nil if it is of another type.
func at[T any](exprs []expr.Any, i int) *T {
	if i < 0 || i >= len(exprs) {
		return nil
	}
	e, _ := any(exprs[i]).(*T)
	return e
}

// comparedName returns the device's name with which expressions i-1 and i compare.
func comparedName(exprs []expr.Any, i int) string {
	meta, cmp := at[expr.Meta](exprs, i-1), at[expr.Cmp](exprs, i)
	if meta == nil || cmp == nil || meta.Key != expr.MetaKeyOIFNAME && meta.Key != expr.MetaKeyIIFNAME {
		return ""
	}
	return unix.ByteSliceToString(cmp.Data)
}

func prefixOf(addr, mask []byte) netip.Prefix {
	a, _ := netip.AddrFromSlice(addr)
	bits, _ := net.IPMask(mask).Size()
	return netip.PrefixFrom(a, bits)
}

// readSets reads the elements of our sets, which must be as we make them: no limits and no timeouts.
func (k *Kernel) readSets(m *topology.Masquerade) error {
	shapes, err := k.shapes()
	if err != nil {
		return err
	}
	if !sameShapes(m, shapes) {
		return errForeign
	}
	for _, f := range families {
		for _, set := range f.sets(m) {
			elements, err := k.nft.GetSetElements(set)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(elements, foreignElement) {
				return errForeign
			}
			switch set.Name {
			case f.cluster:
				ranges, ok := parseIntervals(elements)
				if !ok {
					return errForeign
				}
				m.Cluster = append(m.Cluster, ranges...)
			case f.nodes:
				m.Nodes = append(m.Nodes, parseSingles(elements)...)
			case f.endpoints:
				m.Endpoints = append(m.Endpoints, parseSingles(elements)...)
			}
		}
	}
	return nil
}

// foreignElement reports whether an element can't be one of ours: one without a key matches
// everything (NFT_SET_ELEM_CATCHALL).
func foreignElement(e nftables.SetElement) bool {
	return len(e.Key) == 0 || len(e.KeyEnd) > 0 || e.Timeout != 0
}

// parseIntervals pairs beginnings and ends. It is not ok if a range is not a prefix.
func parseIntervals(elements []nftables.SetElement) ([]netip.Prefix, bool) {
	if slices.ContainsFunc(elements, foreignElement) {
		return nil, false
	}
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	})
	var prefixes []netip.Prefix
	for i, e := range elements {
		if e.IntervalEnd {
			continue
		}
		start, _ := netip.AddrFromSlice(e.Key)
		var end netip.Addr
		if i+1 < len(elements) && elements[i+1].IntervalEnd {
			end, _ = netip.AddrFromSlice(elements[i+1].Key)
		}
		p, ok := rangePrefix(start, end)
		if !ok {
			return nil, false
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, true
}

// rangePrefix returns the prefix from start to just before end; an invalid end is past the topmost
// address.
func rangePrefix(start, end netip.Addr) (netip.Prefix, bool) {
	for bits := start.BitLen(); bits >= 0; bits-- {
		p := netip.PrefixFrom(start, bits)
		if p.Masked() != p {
			return netip.Prefix{}, false
		}
		if topology.Last(p).Next() == end {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func parseSingles(elements []nftables.SetElement) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(elements))
	for _, e := range elements {
		if a, ok := netip.AddrFromSlice(e.Key); ok {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
