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

// A podRange is a range of --cluster-cidr with the lengths that pod subnets in there may have.
type podRange struct {
	netip.Prefix
	lengths Lengths
}

// setLengths finds the lengths that pod subnets may have: the operator's; else, in a range of
// --cluster-cidr, those that take no more than a share of it; else the usual ones. The usual ones
// are accepted in a small range too.
func (j *judge) setLengths(cluster []netip.Prefix, actual []Route) {
	for _, is4 := range []bool{true, false} {
		lengths := j.others.of(is4)
		if *lengths = j.opts.maskSizes(is4); *lengths == (Lengths{}) {
			*lengths = j.usualLengths(cluster, actual, is4)
		}
	}
	for _, c := range cluster {
		is4 := c.Addr().Is4()
		r := podRange{c, *j.others.of(is4)}
		if j.opts.maskSizes(is4) == (Lengths{}) {
			r.lengths = widened(r.lengths, c)
		}
		j.ranges = append(j.ranges, r)
	}
}

// widened adds to the usual lengths those that take no more than a share of a range.
func widened(usual Lengths, c netip.Prefix) Lengths {
	narrowest := byFamily[int]{narrowest4, narrowest6}
	l := Lengths{c.Bits() + shareBits, *narrowest.of(c.Addr().Is4())}
	if usual != (Lengths{}) {
		l = Lengths{min(l.Widest, usual.Widest), max(l.Narrowest, usual.Narrowest)}
	}
	return l
}

// lengths returns the lengths that pod subnets may have where a prefix is, and whether that is
// inside --cluster-cidr, if there is one.
func (j *judge) lengths(p netip.Prefix) (lengths Lengths, inside bool) {
	for i := range j.ranges {
		if r := &j.ranges[i]; r.Contains(p.Addr()) {
			return r.lengths, r.Bits() <= p.Bits()
		}
	}
	return *j.others.of(p.Addr().Is4()), len(j.ranges) == 0
}

// usualLengths returns the lengths that pod subnets of a family seem to have: our own subnet's,
// else, while our own are not known, from the widest to the narrowest of those which our table has,
// else what most Nodes have.
func (j *judge) usualLengths(cluster []netip.Prefix, actual []Route, is4 bool) Lengths {
	if j.own != nil && j.own.podCIDR(is4).IsValid() {
		bits := j.own.podCIDR(is4).Bits()
		return Lengths{bits, bits}
	}
	var routed, claimed lengthCount
	for _, n := range j.peers {
		p := n.podCIDR(is4)
		if !p.IsValid() || !plausible(cluster, p) {
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
func plausible(cluster []netip.Prefix, p netip.Prefix) bool {
	if len(cluster) > 0 {
		return within(cluster, p) && !slices.Contains(cluster, p)
	}
	widest := byFamily[int]{wide4, wide6}
	return p.Bits() >= *widest.of(p.Addr().Is4())
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
