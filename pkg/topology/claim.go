package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A claim is a pod subnet that a Node has in its podCIDRs.
type claim struct {
	subnet netip.Prefix
	node   *Node
	reach
	hadRoute bool // there was a route via this address since the subnet was granted
}

func (c *claim) problem(reason problem.Reason, format string, args ...any) problem.Problem {
	return problemOf(c.node.Name, c.subnet, reason, format, args...)
}

// claimTo returns the claim to a subnet, or nil.
func claimTo(sorted []*claim, subnet netip.Prefix) *claim {
	i, ok := slices.BinarySearchFunc(sorted, subnet, func(c *claim, p netip.Prefix) int { return ComparePrefix(c.subnet, p) })
	if !ok {
		return nil
	}
	return sorted[i]
}

// A validator decides which claims are accepted.
type validator struct {
	*resolver
	cluster  []netip.Prefix    // --cluster-cidr, disjoint
	usual    byFamily[Lengths] // the lengths of pod subnets that --cluster-cidr does not define; zero: unknown
	uplinked map[string]bool   // the names of the links by which this host is reached
	never    index[taken]      // what no pod subnet may overlap, because of options and standards
	held     []taken           // what of this host a new pod subnet may not overlap
	taken    index[taken]      // the same
	wider    []taken           // networks around a range of --cluster-cidr, one address of each
	leftover []taken           // single addresses in our own subnets, on devices of other networks, with remediation
	nodes    []nodeAddr        // Nodes' InternalIPs that the above don't protect, sorted
}

type nodeAddr struct {
	addr netip.Addr
	node *Node
}

func newValidator(r *resolver) *validator {
	v := &validator{resolver: r, cluster: Outermost(r.opts.ClusterCIDRs), uplinked: r.uplinkNames(), never: newTakenIndex(bounds(r.opts))}
	v.usual = byFamily[Lengths]{v.usualLengths(true), v.usualLengths(false)}
	v.findTaken()
	return v
}

// protect keeps pod subnets off Nodes' InternalIPs: of each Node and family the one that counts,
// whether it has a pod subnet or not. Most are inside a connected prefix, which is taken already.
// With --cluster-cidr there are none, because no InternalIP may be in it.
func (v *validator) protect(claims []claim) {
	if len(v.opts.ClusterCIDRs) > 0 {
		return
	}
	type side struct {
		node *Node
		is4  bool
	}
	counts := map[side]netip.Addr{} // where it is not the first one
	for i := range claims {
		if c, is4 := &claims[i], claims[i].subnet.Addr().Is4(); c.addr != c.node.firstAddr(is4) {
			counts[side{c.node, is4}] = c.addr
		}
	}
	for _, n := range v.peers {
		for _, f := range families {
			addr := cmp.Or(counts[side{n, f.is4}], n.firstAddr(f.is4))
			if addr.IsValid() && v.excluded(addr) == "" && v.taken.overlap(single(addr)) == nil && v.never.overlap(single(addr)) == nil {
				v.nodes = append(v.nodes, nodeAddr{addr, n})
			}
		}
	}
	slices.SortFunc(v.nodes, func(a, b nodeAddr) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.node.Name, b.node.Name))
	})
}

// refuse returns why a subnet can't be a pod subnet because of options and standards, or "".
func (v *validator) refuse(p netip.Prefix) string {
	switch lengths, inside := v.lengths(p); {
	case !inside:
		return fmt.Sprintf("podCIDR %s is outside --cluster-cidr", p)
	case lengths == Lengths{}:
		return fmt.Sprintf("podCIDR %s is wider than a pod subnet is taken to be without --cluster-cidr", p)
	case !lengths.has(p.Bits()):
		return fmt.Sprintf("podCIDR %s is a /%d, pod subnets here are %s", p, p.Bits(), lengths)
	}
	return clashOf(&v.never, p)
}

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

// guesses reports whether the lengths of one of the subnets depend on what most Nodes have.
func (v *validator) guesses(subnets []netip.Prefix) bool {
	return slices.ContainsFunc(subnets, func(p netip.Prefix) bool {
		is4 := p.Addr().Is4()
		return v.opts.maskSizes(is4) == Lengths{} && !hasFamily(v.ownCIDRs, is4)
	})
}

// usualLengths returns the operator's lengths of pod subnets in a family, or the probable ones:
// that of our own subnet; while that is unknown, those of our existing routes; else that of most
// Nodes.
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
		if len(v.ownCIDRs) == 0 && v.inPlace(p) != nil {
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
