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
func claimTo(sorted []claim, subnet netip.Prefix) *claim {
	i, ok := slices.BinarySearchFunc(sorted, subnet, func(c claim, p netip.Prefix) int { return ComparePrefix(c.subnet, p) })
	if !ok {
		return nil
	}
	return &sorted[i]
}

// A validator decides which claims are accepted.
type validator struct {
	*hostRanges
	usual byFamily[Lengths] // the lengths of pod subnets that --cluster-cidr does not define; zero: unknown
	never index[taken]      // what no pod subnet may overlap, because of options and standards
	taken index[taken]      // what of this host a new pod subnet may not overlap
	nodes []nodeAddr        // Nodes' InternalIPs that the above don't protect, sorted
}

type nodeAddr struct {
	addr netip.Addr
	node *Node
}

func newValidator(r *resolver) *validator {
	h := rangesOf(r)
	v := &validator{hostRanges: h, never: newTakenIndex(bounds(r.opts)), taken: newTakenIndex(h.held)}
	v.usual = byFamily[Lengths]{v.usualLengths(true), v.usualLengths(false)}
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
