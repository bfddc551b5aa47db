package dataplane

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// readTable returns our table, nil if there is none, and an empty Masquerade for a table that differs from ours in anything but its
// parameters. No desired one is equal to that, so the table is replaced.
func (k *Kernel) readTable() (*topology.Masquerade, error) {
	table, err := k.nft.ListTableOfFamily(topology.Table, nftables.TableFamilyINet)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, err
	case table.Flags != 0: // dormant: no chain sees a packet; owned: it goes with a process
		return &topology.Masquerade{}, nil
	}
	m, err := k.readRules()
	if err != nil || len(m.Sources) == 0 {
		return m, err
	}
	shapes, err := k.shapes()
	if err != nil {
		return nil, err
	}
	if !sameShapes(m, shapes) {
		return &topology.Masquerade{}, nil
	}
	for _, f := range families {
		if !m.Serves(f.is4) {
			continue
		}
		cluster, errCluster := k.nft.GetSetElements(f.clusterSet())
		nodes, errNodes := k.nft.GetSetElements(f.nodesSet())
		if err := errors.Join(errCluster, errNodes); err != nil {
			return nil, err
		}
		ranges, ok := parseIntervals(cluster)
		if !ok || slices.ContainsFunc(nodes, foreignElement) {
			return &topology.Masquerade{}, nil
		}
		m.Cluster = append(m.Cluster, ranges...)
		m.Nodes = append(m.Nodes, parseSingles(nodes)...)
	}
	return m, nil
}

// readRules returns the bridge, pod subnets and egress links for which our chains were made, or an
// empty Masquerade if the chains differ from those that we would make.
func (k *Kernel) readRules() (*topology.Masquerade, error) {
	all, err := k.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	counts, err := k.expressions()
	if err != nil {
		return nil, err
	}
	m := &topology.Masquerade{}
	rules := map[string][]*nftables.Rule{}
	found := map[string]*nftables.Chain{}
	for _, c := range all {
		if c.Table.Name != topology.Table {
			continue
		}
		found[c.Name] = c
		if rules[c.Name], err = k.nft.GetRules(nftTable, c); err != nil {
			return nil, err
		}
		for _, r := range rules[c.Name] {
			if counts[r.Handle] != len(r.Exprs) {
				return &topology.Masquerade{}, nil
			}
			guess(m, r.Exprs)
		}
	}
	slices.SortFunc(m.Egress, topology.Egress.Compare)
	want := chains(m)
	if len(found) != len(want) {
		return &topology.Masquerade{}, nil
	}
	for _, c := range want {
		if !sameChain(c, found[c.Name], rules[c.Name]) {
			return &topology.Masquerade{}, nil
		}
	}
	return m, nil
}

// guess reads the parameters of a rule. The comparison with rules made from them shows whether the
// rest is ours too.
func guess(m *topology.Masquerade, exprs []expr.Any) {
	if e, ok := egressOf(exprs); ok {
		if !slices.Contains(m.Egress, e) {
			m.Egress = append(m.Egress, e)
		}
		return
	}
	for i, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if name, ok := nameOf(exprs, i); ok {
				m.Bridge = name
			}
		case *expr.Bitwise:
			cmp, ok := next[*expr.Cmp](exprs, i)
			if ok && cmp.Op == expr.CmpOpEq && has[*expr.Masq](exprs) {
				m.Sources = append(m.Sources, prefixOf(cmp.Data, e.Mask))
			}
		}
	}
}

// egressOf returns the link and the address of a rule that sets the source address.
func egressOf(exprs []expr.Any) (e topology.Egress, ok bool) {
	if !has[*expr.NAT](exprs) {
		return topology.Egress{}, false
	}
	for i, x := range exprs {
		if name, is := nameOf(exprs, i); is {
			e.Dev = name
		}
		if value, is := x.(*expr.Immediate); is {
			e.Addr, ok = netip.AddrFromSlice(value.Data)
		}
	}
	return e, ok
}

// nameOf returns the device's name with which expressions i and i+1 compare.
func nameOf(exprs []expr.Any, i int) (string, bool) {
	meta, is := exprs[i].(*expr.Meta)
	if !is || meta.Key != expr.MetaKeyOIFNAME && meta.Key != expr.MetaKeyIIFNAME {
		return "", false
	}
	cmp, is := next[*expr.Cmp](exprs, i)
	if !is {
		return "", false
	}
	return string(bytes.TrimRight(cmp.Data, "\x00")), true
}

func next[T expr.Any](exprs []expr.Any, i int) (e T, ok bool) {
	if i+1 < len(exprs) {
		e, ok = exprs[i+1].(T)
	}
	return e, ok
}

// has reports whether a rule has an expression of a type.
func has[T expr.Any](exprs []expr.Any) bool {
	return slices.ContainsFunc(exprs, func(e expr.Any) bool { _, ok := e.(T); return ok })
}

func prefixOf(addr, mask []byte) netip.Prefix {
	a, _ := netip.AddrFromSlice(addr)
	bits, _ := net.IPMask(mask).Size()
	return netip.PrefixFrom(a, bits)
}

func sameChain(want chain, have *nftables.Chain, rules []*nftables.Rule) bool {
	if have == nil || have.Type != want.Type || have.Hooknum == nil || *have.Hooknum != *want.Hooknum ||
		have.Priority == nil || *have.Priority != *want.Priority || have.Policy == nil || *have.Policy != *want.Policy ||
		len(rules) != len(want.rules) {
		return false
	}
	for i, r := range rules {
		if !sameExprs(want.rules[i], r.Exprs) {
			return false
		}
	}
	return true
}

// sameExprs compares rules. For a lookup the kernel returns the set's name, but not its number in
// the transaction.
func sameExprs(want, have []expr.Any) bool { return reflect.DeepEqual(want, have) }

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
	var addrs []netip.Addr
	for _, e := range elements {
		if a, ok := netip.AddrFromSlice(e.Key); ok {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
