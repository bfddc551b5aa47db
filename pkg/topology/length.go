package topology

import (
	"fmt"
	"net/netip"
	"slices"
)

// Lengths is a range of prefix lengths in bits, both ends included. The zero Lengths has none.
type Lengths struct{ Widest, Narrowest int }

func (l Lengths) has(bits int) bool { return l.Widest <= bits && bits <= l.Narrowest }

func (l Lengths) String() string {
	if l.Widest == l.Narrowest {
		return fmt.Sprintf("/%d", l.Widest)
	}
	return fmt.Sprintf("/%d to /%d", l.Widest, l.Narrowest)
}

// The longest prefixes that have room for a network address, a gateway, a pod and, in IPv4, a
// broadcast address.
const narrowest4, narrowest6 = 30, 126

// shareBits bounds what one Node may take of a range of --cluster-cidr, unless the operator names
// lengths: a sixteenth. A /16 then takes a /20, and one Node can't take much from those to come.
const shareBits = 4

// lengths returns the lengths that pod subnets where a prefix is may have: the operator's; else, in
// a range of --cluster-cidr, those that take no more than a share of it; else the usual ones. The
// usual ones are accepted in a small range too.
func (j *judge) lengths(p netip.Prefix) Lengths {
	is4 := p.Addr().Is4()
	if given := j.opts.maskSizes(is4); given != (Lengths{}) {
		return given
	}
	usual := *j.usual.of(is4)
	i := j.rangeOf(p)
	if i < 0 {
		return usual
	}
	narrowest := byFamily[int]{narrowest4, narrowest6}
	wide := Lengths{j.cluster[i].Bits() + shareBits, *narrowest.of(is4)}
	if usual == (Lengths{}) {
		return wide
	}
	return Lengths{min(wide.Widest, usual.Widest), max(wide.Narrowest, usual.Narrowest)}
}

// usualLengths returns the lengths that pod subnets of a family seem to have: our own subnet's,
// else, while our own are not known, from the widest to the narrowest of those which our table has,
// else what most Nodes have.
func (j *judge) usualLengths(actual []Route, is4 bool) Lengths {
	if j.own != nil && j.own.podCIDR(is4).IsValid() {
		bits := j.own.podCIDR(is4).Bits()
		return Lengths{bits, bits}
	}
	var routed, claimed lengthCount
	for _, n := range j.peers {
		p := n.podCIDR(is4)
		if !p.IsValid() || !j.plausible(p) {
			continue
		}
		claimed[p.Bits()]++
		if _, ok := slices.BinarySearchFunc(actual, Route{Dst: p, Metric: MetricPeer}, Route.Compare); ok {
			routed[p.Bits()]++
		}
	}
	if inPlace := routed.span(); inPlace != (Lengths{}) && (j.own == nil || len(j.own.PodCIDRs) == 0) {
		return inPlace
	}
	most := claimed.most()
	return Lengths{most, most}
}

// plausible keeps a single Node from telling us what all pod subnets are like, in
// a family of which we know none: 2000::/3, say, or all of --cluster-cidr. A /16 or a /48 is
// as much as kube-controller-manager gives a whole cluster by default, or more.
func (j *judge) plausible(p netip.Prefix) bool {
	if len(j.cluster) > 0 {
		i := j.rangeOf(p)
		return i >= 0 && j.cluster[i].Bits() < p.Bits()
	}
	widest := byFamily[int]{wide4, wide6}
	return p.Bits() >= *widest.of(p.Addr().Is4())
}

// rangeOf returns the index of the range of --cluster-cidr that a prefix begins in, or -1.
func (j *judge) rangeOf(p netip.Prefix) int {
	return slices.IndexFunc(j.cluster, func(c netip.Prefix) bool { return c.Contains(p.Addr()) })
}

// lengthCount counts prefixes by their number of bits.
type lengthCount [129]int

// most returns the commonest length, the longer of two, or 0.
func (l *lengthCount) most() int {
	most := 0
	for bits, n := range l {
		if n > 0 && n >= l[most] {
			most = bits
		}
	}
	return most
}

// span returns the range from the shortest length to the longest.
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
