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
	// widest are the bits of the widest pod subnets that can be accepted.
	widest := byFamily[int]{cmp.Or(opts.MaskSizes4.Widest, wide4), cmp.Or(opts.MaskSizes6.Widest, wide6)}
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			if bits := widest.of(p.Addr().Is4()); n.Name == opts.NodeName && !opts.Router {
				*bits = min(*bits, cmp.Or(p.Bits(), *bits))
			}
		}
	}
	ranges := map[netip.Prefix]struct{}{}
	for _, p := range opts.ClusterCIDRs {
		ranges[p.Masked()] = struct{}{}
	}
	// add skips what is in the last block of the same kind, which is usual for the next Node.
	add := func(p netip.Prefix, last *netip.Prefix) {
		if !last.Contains(p.Addr()) || last.Bits() > p.Bits() {
			*last = around(p)
			ranges[*last] = struct{}{}
		}
	}
	var addrs, pods byFamily[netip.Prefix]
	for _, n := range nodes {
		for _, addr := range n.Addrs {
			add(single(addr), addrs.of(addr.Is4()))
		}
		for _, p := range n.PodCIDRs { // without wider ones, by which a single kubelet could make all foreign routes matter
			if is4 := p.Addr().Is4(); len(opts.ClusterCIDRs) == 0 && p.Bits() >= min(*widest.of(is4), choose(is4, wide4, wide6)) {
				add(p, pods.of(is4))
			}
		}
	}
	return Outermost(slices.AppendSeq([]netip.Prefix{}, maps.Keys(ranges)))
}

// wide4 and wide6 are the bits of a block, and of the widest pod subnet that is plausible without
// --cluster-cidr.
const wide4, wide6 = 16, 48

// around returns the block that contains a prefix, or a wider prefix itself.
func around(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Addr(), min(p.Bits(), choose(p.Addr().Is4(), wide4, wide6))).Masked()
}
