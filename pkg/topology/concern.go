package topology

import "net/netip"

// Concerns returns the ranges in which others' routes can matter to this cluster: where pods live, which
// is --cluster-cidr, else all around each pod subnet, and all around each InternalIP of a Node. Around is a /16
// in IPv4 and a /48 in IPv6, so that they are few, and seldom change as Nodes come and go. They are
// disjoint, sorted and never nil.
func Concerns(opts Options, nodes []*Node) []netip.Prefix {
	c := concerns{opts: opts, widest: byFamily[int]{wide4, wide6}, seen: map[netip.Prefix]bool{}, all: []netip.Prefix{}}
	for _, is4 := range []bool{true, false} {
		c.widen(opts.maskSize(is4), is4)
	}
	for _, n := range nodes {
		if n.Name == opts.NodeName && !opts.Router {
			for _, p := range n.PodCIDRs {
				c.widen(p.Bits(), p.Addr().Is4())
			}
		}
	}
	for _, p := range opts.ClusterCIDRs {
		c.all = append(c.all, p.Masked())
	}
	for _, n := range nodes {
		c.addNode(n)
	}
	return Outermost(c.all)
}

type concerns struct {
	opts   Options
	widest byFamily[int] // bits of the widest pod subnet that can be accepted
	seen   map[netip.Prefix]bool
	all    []netip.Prefix

	addrs, pods byFamily[netip.Prefix] // the last block of each
}

// widen takes note of a length that pod subnets have.
func (c *concerns) widen(bits int, is4 bool) {
	if widest := c.widest.of(is4); bits > 0 {
		*widest = min(*widest, bits)
	}
}

// addNode leaves out a subnet that is wider than any that can be accepted, which a single kubelet
// could have all the world concern us by.
func (c *concerns) addNode(n *Node) {
	for _, addr := range n.Addrs {
		c.add(single(addr), &c.addrs)
	}
	if len(c.opts.ClusterCIDRs) > 0 {
		return
	}
	for _, p := range n.PodCIDRs {
		if p.Bits() >= *c.widest.of(p.Addr().Is4()) {
			c.add(p, &c.pods)
		}
	}
}

// add skips what it has, most of all the last block of the same kind, in which the next Node's
// nearly always is.
func (c *concerns) add(p netip.Prefix, kind *byFamily[netip.Prefix]) {
	last := kind.of(p.Addr().Is4())
	if last.Contains(p.Addr()) && last.Bits() <= p.Bits() {
		return
	}
	*last = around(p)
	if !c.seen[*last] {
		c.seen[*last] = true
		c.all = append(c.all, *last)
	}
}

// Bits of the blocks around an address, which is also as wide as a pod subnet may be that nobody
// vouches for.
const wide4, wide6 = 16, 48

// around returns the block that holds a prefix, or a wider prefix itself.
func around(p netip.Prefix) netip.Prefix {
	bits := byFamily[int]{wide4, wide6}
	return netip.PrefixFrom(p.Addr(), min(p.Bits(), *bits.of(p.Addr().Is4()))).Masked()
}
