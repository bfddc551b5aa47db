package topology

import (
	"fmt"
	"net/netip"
	"slices"
)

// Lengths is a range of prefix lengths in bits, inclusive. The zero Lengths is empty.
type Lengths struct{ Widest, Narrowest int }

func (l Lengths) has(bits int) bool { return l.Widest <= bits && bits <= l.Narrowest }

func (l Lengths) String() string {
	if l.Widest == l.Narrowest {
		return fmt.Sprintf("/%d", l.Widest)
	}
	return fmt.Sprintf("/%d to /%d", l.Widest, l.Narrowest)
}

// union returns the least range around two.
func (l Lengths) union(o Lengths) Lengths {
	switch (Lengths{}) {
	case l:
		return o
	case o:
		return l
	}
	return Lengths{min(l.Widest, o.Widest), max(l.Narrowest, o.Narrowest)}
}

// shareBits bounds the part of a range of --cluster-cidr that one Node can have, unless the
// operator sets lengths: a sixteenth, such as a /20 of a /16.
const shareBits = 4

// longest returns the bits of the longest prefix with room for a network address, a gateway, a pod
// and, in IPv4, a broadcast address. host-local refuses longer ones.
func longest(is4 bool) int { return choose(is4, 30, 126) }

// lengths returns the allowed lengths of pod subnets around a prefix, and whether it is inside
// --cluster-cidr, if there is one: the operator's lengths; else the usual ones, and in a range of
// --cluster-cidr those that take no more than a share of it.
func (v *validator) lengths(p netip.Prefix) (lengths Lengths, inside bool) {
	is4 := p.Addr().Is4()
	lengths = *v.usual.of(is4)
	for _, c := range v.cluster {
		if !c.Contains(p.Addr()) {
			continue
		}
		if v.opts.maskSizes(is4) == (Lengths{}) {
			lengths = lengths.union(Lengths{c.Bits() + shareBits, longest(is4)})
		}
		return lengths, c.Bits() <= p.Bits()
	}
	return lengths, len(v.cluster) == 0
}

// usualLengths returns the operator's lengths of pod subnets in a family, or the probable ones: that
// of our own subnet; while that is unknown, those of our existing routes; else that of most Nodes.
func (v *validator) usualLengths(is4 bool) Lengths {
	if set := v.opts.maskSizes(is4); set != (Lengths{}) {
		return set
	}
	if p := firstOf(v.ownCIDRs, is4); p.IsValid() {
		return Lengths{p.Bits(), p.Bits()}
	}
	var routed Lengths
	var claims [129]int // by length
	for _, n := range v.peers {
		p := n.podCIDR(is4)
		if !p.IsValid() || !plausible(v.cluster, p) {
			continue
		}
		claims[p.Bits()]++
		if len(v.ownCIDRs) == 0 && routeTo(v.actual.Routes, p, MetricPeer) != nil {
			routed = routed.union(Lengths{p.Bits(), p.Bits()})
		}
	}
	most := 0 // the longest of several
	for bits, n := range claims {
		if n > 0 && n >= claims[most] {
			most = bits
		}
	}
	if routed != (Lengths{}) {
		return routed
	}
	return Lengths{most, most}
}

// plausible reports whether a Node's subnet counts for the usual lengths. A single Node must not
// define them with 2000::/3 or all of --cluster-cidr. A /16 or a /48 is at least what
// kube-controller-manager gives a whole cluster by default.
func plausible(cluster []netip.Prefix, p netip.Prefix) bool {
	if len(cluster) > 0 {
		return within(cluster, p) && !slices.Contains(cluster, p)
	}
	return p.Bits() >= choose(p.Addr().Is4(), wide4, wide6)
}
