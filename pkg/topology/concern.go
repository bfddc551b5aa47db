package topology

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Concerns returns the ranges in which foreign routes can matter to this cluster: --cluster-cidr,
// or without it the /16 (IPv4) or /48 (IPv6) around each pod subnet, and the same around each
// InternalIP. So they are few, and seldom change with the Nodes. They are disjoint, sorted and
// never nil.
func Concerns(opts Options, nodes []*Node) []netip.Prefix {
	var c concerns
	return c.of(opts, nodes)
}

// concerns keeps the result of Concerns for the next one. The zero concerns is ready for use.
type concerns struct {
	nodes  []*Node
	widest byFamily[int]        // the bits of the widest pod subnets that can be accepted
	blocks map[netip.Prefix]int // how many addresses and pod subnets are in each block
	ranges []netip.Prefix       // the result
}

func (c *concerns) of(opts Options, nodes []*Node) []netip.Prefix {
	removed, added := changedNodes(c.nodes, nodes)
	isOwn := func(n *Node) bool { return n.Name == opts.NodeName }
	if c.ranges == nil || len(removed)+len(added) > maxChanged || slices.ContainsFunc(slices.Concat(removed, added), isOwn) {
		removed, added = nil, nodes
		c.begin(opts, nodes)
	}
	before := len(c.blocks)
	c.count(opts, added, 1)
	grown := len(c.blocks) > before
	before = len(c.blocks)
	c.count(opts, removed, -1)
	if c.nodes = nodes; c.ranges == nil || grown || len(c.blocks) < before {
		ranges := slices.AppendSeq([]netip.Prefix{}, maps.Keys(c.blocks))
		for _, p := range opts.ClusterCIDRs {
			ranges = append(ranges, p.Masked())
		}
		c.ranges = Outermost(ranges)
	}
	return c.ranges
}

// begin forgets all Nodes.
func (c *concerns) begin(opts Options, nodes []*Node) {
	c.widest = byFamily[int]{cmp.Or(opts.MaskSizes4.Widest, wide4), cmp.Or(opts.MaskSizes6.Widest, wide6)}
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			if bits := c.widest.of(p.Addr().Is4()); n.Name == opts.NodeName && !opts.Router {
				*bits = min(*bits, cmp.Or(p.Bits(), *bits))
			}
		}
	}
	c.blocks, c.ranges = map[netip.Prefix]int{}, nil
}

// count adds n to the block of each address and pod subnet. Of the pod subnets it leaves out wider
// ones, by which a single kubelet could make all foreign routes matter.
func (c *concerns) count(opts Options, nodes []*Node, n int) {
	add := func(p netip.Prefix) {
		block := around(p)
		if c.blocks[block] += n; c.blocks[block] == 0 {
			delete(c.blocks, block)
		}
	}
	for _, node := range nodes {
		for _, addr := range node.Addrs {
			add(single(addr))
		}
		for _, p := range node.PodCIDRs {
			if is4 := p.Addr().Is4(); len(opts.ClusterCIDRs) == 0 && p.Bits() >= min(*c.widest.of(is4), choose(is4, wide4, wide6)) {
				add(p)
			}
		}
	}
}

// wide4 and wide6 are the bits of a block, and of the widest pod subnet that is plausible without
// --cluster-cidr.
const wide4, wide6 = 16, 48

// around returns the block that contains a prefix, or a wider prefix itself.
func around(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Addr(), min(p.Bits(), choose(p.Addr().Is4(), wide4, wide6))).Masked()
}
