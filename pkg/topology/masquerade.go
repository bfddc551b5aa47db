package topology

import (
	"net/netip"
	"slices"
	"sort"
)

// masquerade computes our nftables table. Nodes without a route are not in its sets, so that a Node
// which claims a foreign address does not change how pods reach it.
//
// A table that can't be read stays as it was read last. Otherwise it would be written in every
// pass.
func (b *builder) masquerade() {
	if b.host.TableUnread != "" {
		b.desired.Masquerade = b.actual.Masquerade
		return
	}
	m := &Masquerade{Bridge: b.opts.Bridge}
	sources, egress := slices.Concat(b.subnets, b.former), b.egress
	if len(sources) == 0 {
		have := b.actual.Masquerade
		if have == nil {
			return
		}
		sources, egress = have.Sources, func(*Masquerade) []Egress { return have.Egress }
	}
	if sources = b.masqueraded(sources); len(sources) > 0 {
		m.Sources = sources
		m.Egress = egress(m)
		m.Cluster = served(m, b.clusterRanges(sources), netip.Prefix.Addr)
		m.Nodes = served(m, b.hops, func(a netip.Addr) netip.Addr { return a })
	}
	b.desired.Masquerade = m
}

func (b *builder) masqueraded(subnets []netip.Prefix) []netip.Prefix {
	if !b.opts.Masquerade {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(subnets), func(p netip.Prefix) bool {
		return p.Addr().Is4() && b.opts.Unmasqueraded4 || p.Addr().Is6() && b.opts.Unmasqueraded6
	})
}

func (b *builder) clusterRanges(sources []netip.Prefix) []netip.Prefix {
	ranges := slices.Concat(sources, b.opts.NonMasqueradeCIDRs, b.opts.ClusterCIDRs)
	if len(b.opts.ClusterCIDRs) == 0 {
		ranges = slices.Grow(ranges, len(b.claims))
		for i := range b.claims {
			ranges = append(ranges, b.claims[i].subnet)
		}
	}
	return Outermost(ranges)
}

// egress returns the links that have an InternalIP of this node beside other addresses of its
// family, such as floating, temporary or older ones, which the kernel may choose for masquerading
// (inet_select_addr of net/ipv4/devinet.c, RFC 6724 in IPv6).
func (b *builder) egress(m *Masquerade) []Egress {
	var all []Egress
	for _, link := range b.host.Links {
		if link.Loopback || link.Name == ipvsDevice {
			continue // no packet leaves through it
		}
		for _, is4 := range []bool{true, false} {
			src := b.resolver.src[link.Name]
			if addr := *src.of(is4); addr.IsValid() && m.Serves(is4) {
				all = append(all, Egress{link.Name, addr})
			}
		}
	}
	slices.SortFunc(all, Egress.Compare)
	return all
}

// served returns the part of a sorted list, IPv4 first, of the families that the table serves.
func served[T any](m *Masquerade, sorted []T, addr func(T) netip.Addr) []T {
	split := sort.Search(len(sorted), func(i int) bool { return !addr(sorted[i]).Is4() })
	switch has4, has6 := m.Serves(true), m.Serves(false); {
	case has4 && has6:
		return sorted
	case has4:
		return sorted[:split:split]
	}
	return sorted[split:]
}

// nextHops returns the Nodes' addresses to which pods' packets are not masqueraded. They exclude
// gateways and nameservers of this host, which may not have a route back, so that a kubelet can't
// disconnect all pods from them by claiming their address.
func (b *builder) nextHops() []netip.Addr {
	hops := make([]netip.Addr, 0, len(b.claims))
	for i := range b.claims {
		if c := &b.claims[i]; c.dev != "" && !slices.Contains(b.validator.essential, c.addr) {
			hops = append(hops, c.addr)
		}
	}
	sortAddrs(hops)
	return slices.Compact(hops)
}
