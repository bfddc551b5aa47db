package topology

import (
	"cmp"
	"net/netip"
	"slices"
)

// A peerIndex finds related peers: those with overlapping prefixes. Its cost is that of a few
// searches for each prefix of a peer, and of moving the elements behind a new one.
type peerIndex struct {
	opts    Options
	entries []peerEntry // sorted
	lengths byFamily[[129]int]
}

// A peerEntry is one of the prefixes of a peer.
type peerEntry struct {
	netip.Prefix
	node *Node
}

func compareEntries(a, b peerEntry) int {
	return cmp.Or(ComparePrefix(a.Prefix, b.Prefix), cmp.Compare(a.node.Name, b.node.Name))
}

func newPeerIndex(opts Options, nodes []*Node) *peerIndex {
	x := &peerIndex{opts: opts, entries: make([]peerEntry, 0, 2*len(nodes)+maxChanged)}
	for _, n := range nodes {
		x.entries = append(x.entries, x.entriesOf(n)...)
	}
	for _, e := range x.entries {
		x.lengths.of(e.Addr().Is4())[e.Bits()]++
	}
	slices.SortFunc(x.entries, compareEntries)
	return x
}

// entriesOf returns the entries of a Node; none of our own.
func (x *peerIndex) entriesOf(n *Node) (all []peerEntry) {
	if n.Name == x.opts.NodeName {
		return nil
	}
	for _, p := range x.prefixes(n) {
		all = append(all, peerEntry{p, n})
	}
	return all
}

// prefixes returns the subnets of a Node, and its InternalIPs as single addresses. If there are
// tunnels, it returns the gateways of IPv6 subnets too, which are the same if the MAC addresses
// are.
func (x *peerIndex) prefixes(n *Node) []netip.Prefix {
	all := slices.Clone(n.PodCIDRs)
	for _, addr := range n.Addrs {
		all = append(all, single(addr))
	}
	for _, p := range n.PodCIDRs {
		if p.Addr().Is6() && x.opts.Encapsulates() {
			all = append(all, single(TunnelGateway(p)))
		}
	}
	return all
}

func (x *peerIndex) add(nodes ...*Node) {
	for _, n := range nodes {
		for _, e := range x.entriesOf(n) {
			i, _ := slices.BinarySearchFunc(x.entries, e, compareEntries)
			x.entries = slices.Insert(x.entries, i, e)
			x.lengths.of(e.Addr().Is4())[e.Bits()]++
		}
	}
}

// remove takes Nodes out. Another Node of the same name stays.
func (x *peerIndex) remove(nodes ...*Node) {
	for _, n := range nodes {
		for _, e := range x.entriesOf(n) {
			i, _ := slices.BinarySearchFunc(x.entries, e, compareEntries)
			for x.entries[i].node != n {
				i++
			}
			x.entries = slices.Delete(x.entries, i, i+1)
			x.lengths.of(e.Addr().Is4())[e.Bits()]--
		}
	}
}

// related returns the given Nodes without our own, the peers with a prefix that overlaps one of the
// prefixes, and all that are related to these, each once. It stops at more than maxChanged.
func (x *peerIndex) related(nodes []*Node, prefixes []netip.Prefix) []*Node {
	var related []*Node
	seen := map[*Node]bool{}
	visit := func(n *Node) {
		if !seen[n] && n.Name != x.opts.NodeName {
			seen[n] = true
			related = append(related, n)
		}
	}
	for _, n := range nodes {
		visit(n)
	}
	for _, p := range prefixes {
		x.each(p, visit)
	}
	for i := 0; i < len(related) && len(related) <= maxChanged; i++ {
		for _, p := range x.prefixes(related[i]) {
			x.each(p, visit)
		}
	}
	return related
}

// each calls f with the peers of all entries that overlap a prefix.
func (x *peerIndex) each(p netip.Prefix, f func(*Node)) {
	lengths := x.lengths.of(p.Addr().Is4())
	for bits, n := range lengths[:p.Bits()] {
		if n == 0 {
			continue
		}
		wider := netip.PrefixFrom(p.Addr(), bits).Masked()
		for i := x.search(wider); i < len(x.entries) && x.entries[i].Prefix == wider; i++ {
			f(x.entries[i].node)
		}
	}
	for i := x.search(p); i < len(x.entries) && p.Contains(x.entries[i].Addr()); i++ {
		f(x.entries[i].node)
	}
}

// search returns the index of the first entry that is not before a prefix.
func (x *peerIndex) search(p netip.Prefix) int {
	i, _ := slices.BinarySearchFunc(x.entries, p, func(e peerEntry, p netip.Prefix) int { return ComparePrefix(e.Prefix, p) })
	return i
}

// changedNodes returns the elements that only one of two lists has.
func changedNodes(before, now []*Node) (removed, added []*Node) {
	n := min(len(before), len(now))
	for i := range n {
		if before[i] != now[i] {
			removed, added = append(removed, before[i]), append(added, now[i])
		}
	}
	removed, added = append(removed, before[n:]...), append(added, now[n:]...)
	if len(removed)+len(added) > 2*maxChanged {
		return removed, added // no matter which of them have only moved
	}
	moved := func(n *Node) bool { return slices.Contains(removed, n) && slices.Contains(added, n) }
	left := slices.DeleteFunc(slices.Clone(removed), moved)
	added = slices.DeleteFunc(slices.Clone(added), moved)
	return left, added
}
