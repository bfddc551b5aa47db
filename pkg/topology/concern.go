package topology

import "net/netip"

// Concerns returns the ranges in which foreign routes can matter to this cluster: --cluster-cidr,
// or without it the /16 (IPv4) or /48 (IPv6) around each pod subnet, and the same around each
// InternalIP. So they are few, and seldom change with the Nodes. They are disjoint, sorted and
// never nil.
func Concerns(opts Options, nodes []*Node) []netip.Prefix {
	c := concerns{widest: byFamily[int]{wide4, wide6}, seen: map[netip.Prefix]bool{}, all: []netip.Prefix{}}
	for _, is4 := range []bool{true, false} {
		c.widen(opts.maskSizes(is4).Widest, is4)
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
		for _, addr := range n.Addrs {
			c.add(single(addr), &c.addrs)
		}
		for _, p := range n.PodCIDRs { // without wider ones, by which a single kubelet could make all foreign routes matter
			if len(opts.ClusterCIDRs) == 0 && p.Bits() >= *c.widest.of(p.Addr().Is4()) {
				c.add(p, &c.pods)
			}
		}
	}
	return Outermost(c.all)
}

type concerns struct {
	widest byFamily[int] // bits of the widest pod subnet that can be accepted
	seen   map[netip.Prefix]bool
	all    []netip.Prefix

	addrs, pods byFamily[netip.Prefix] // the last block of each
}

func (c *concerns) widen(bits int, is4 bool) {
	if widest := c.widest.of(is4); bits > 0 {
		*widest = min(*widest, bits)
	}
}

// add skips what is in the last block of the same kind, which is usual for the next Node.
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

// wide4 and wide6 are the bits of a block, and of the widest pod subnet that is plausible without
// --cluster-cidr.
const wide4, wide6 = 16, 48

// around returns the block that contains a prefix, or a wider prefix itself.
func around(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Addr(), min(p.Bits(), choose(p.Addr().Is4(), wide4, wide6))).Masked()
}
