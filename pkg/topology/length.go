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

// The longest prefixes with room for a network address, a gateway, a pod and, in IPv4, a broadcast
// address.
const narrowest4, narrowest6 = 30, 126

// shareBits bounds the part of a range of --cluster-cidr that one Node can have, unless the
// operator sets lengths: a sixteenth, such as a /20 of a /16.
const shareBits = 4

// A podRange is a range of --cluster-cidr with the allowed lengths of pod subnets in it.
type podRange struct {
	netip.Prefix
	lengths Lengths
}

// setLengths computes the allowed lengths of pod subnets: the operator's; else, in a range of
// --cluster-cidr, those that take no more than a share of it, and the usual ones; else the usual
// ones.
func (v *validator) setLengths() {
	for _, is4 := range []bool{true, false} {
		lengths := v.others.of(is4)
		if *lengths = v.opts.maskSizes(is4); *lengths == (Lengths{}) {
			*lengths = v.usualLengths(is4)
		}
	}
	for _, c := range v.cluster {
		is4 := c.Addr().Is4()
		r := podRange{c, *v.others.of(is4)}
		if v.opts.maskSizes(is4) == (Lengths{}) {
			r.lengths = widened(r.lengths, c)
		}
		v.ranges = append(v.ranges, r)
	}
}

// widened adds to the usual lengths those that take no more than a share of a range.
func widened(usual Lengths, c netip.Prefix) Lengths {
	l := Lengths{c.Bits() + shareBits, choose(c.Addr().Is4(), narrowest4, narrowest6)}
	if usual != (Lengths{}) {
		l = Lengths{min(l.Widest, usual.Widest), max(l.Narrowest, usual.Narrowest)}
	}
	return l
}

// lengths returns the allowed lengths of pod subnets around a prefix, and whether it is inside
// --cluster-cidr, if there is one.
func (v *validator) lengths(p netip.Prefix) (lengths Lengths, inside bool) {
	for i := range v.ranges {
		if r := &v.ranges[i]; r.Contains(p.Addr()) {
			return r.lengths, r.Bits() <= p.Bits()
		}
	}
	return *v.others.of(p.Addr().Is4()), len(v.ranges) == 0
}

// usualLengths returns the probable lengths of pod subnets in a family: that of our own subnet;
// while that is unknown, those of our existing routes; else that of most Nodes.
func (v *validator) usualLengths(is4 bool) Lengths {
	if p := firstOf(v.ownCIDRs, is4); p.IsValid() {
		return Lengths{p.Bits(), p.Bits()}
	}
	var routed, claimed lengthCount
	for _, n := range v.peers {
		p := n.podCIDR(is4)
		if !p.IsValid() || !plausible(v.cluster, p) {
			continue
		}
		claimed[p.Bits()]++
		if routeTo(v.actual.Routes, p, MetricPeer) != nil {
			routed[p.Bits()]++
		}
	}
	if inPlace := routed.span(); inPlace != (Lengths{}) && len(v.ownCIDRs) == 0 {
		return inPlace
	}
	most := claimed.most()
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

type lengthCount [129]int

// most returns the most frequent length, the longest of several, or 0.
func (l *lengthCount) most() int {
	most := 0
	for bits, n := range l {
		if n > 0 && n >= l[most] {
			most = bits
		}
	}
	return most
}

func (l *lengthCount) span() Lengths {
	var s Lengths
	for bits, n := range l {
		switch {
		case n == 0:
		case s == Lengths{}:
			s = Lengths{bits, bits}
		default:
			s.Narrowest = bits
		}
	}
	return s
}
