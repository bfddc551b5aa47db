package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// masquerade computes our nftables table. Nodes without a route are not in its sets, so that a Node
// which claims a foreign address does not change how pods reach it.
//
// A table that can't be read stays as it was read last, and is not written in every pass.
func (b *builder) masquerade() {
	if b.host.TableUnread != "" {
		b.desired.Masquerade = b.actual.Masquerade
		return
	}
	m := &Masquerade{Bridge: b.opts.Bridge, Sources: b.masqueraded(slices.Concat(b.subnets, b.former))}
	if known := len(b.subnets)+len(b.former) > 0; known {
		m.Egress = b.egress(m)
	} else if have := b.actual.Masquerade; have == nil {
		return
	} else if m.Sources = b.masqueraded(have.Sources); len(m.Sources) > 0 {
		m.Egress = have.Egress
	}
	b.filterTunnels(m)
	if len(m.Sources) > 0 {
		served := byFamily[bool]{m.Serves(true), m.Serves(false)}
		m.Nodes = slices.DeleteFunc(b.hops, func(a netip.Addr) bool { return !*served.of(a.Is4()) })
	}
	if len(m.Sources)+len(m.Tunnels) > 0 {
		known := byFamily[bool]{m.KnowsCluster(true), m.KnowsCluster(false)}
		ranges := b.clusterRanges(slices.Concat(b.subnets, b.former, m.Sources))
		m.Cluster = slices.DeleteFunc(ranges, func(p netip.Prefix) bool { return !*known.of(p.Addr().Is4()) })
	}
	b.desired.Masquerade = m
}

// filterTunnels adds the filters of our tunnels. While our own subnets are unknown, those of the
// table stay. So does that of a tunnel that is to be deleted, until the pass after that.
func (b *builder) filterTunnels(m *Masquerade) {
	for _, t := range b.desired.Tunnels {
		if own := firstOf(b.subnets, t.Local.Is4()); own.IsValid() {
			m.Tunnels = append(m.Tunnels, TunnelFilter{t.Name, t.VNI, t.Port, own})
		}
	}
	if have := b.actual.Masquerade; len(b.subnets) == 0 && have != nil && len(b.desired.Tunnels) > 0 {
		m.Tunnels = have.Tunnels
	}
	if len(m.Tunnels) > 0 {
		m.Endpoints = b.endpoints()
	}
	for _, is4 := range []bool{true, false} {
		if _, there := b.existingTunnel(is4); there && !m.Filters(is4) && b.actual.Masquerade != nil {
			m.keepFilter(b.actual.Masquerade, is4)
		}
	}
}

// keepFilter takes over the filter of a family's tunnel from another table.
func (m *Masquerade) keepFilter(have *Masquerade, is4 bool) {
	for _, t := range have.Tunnels {
		if t.Own.Addr().Is4() == is4 {
			m.Tunnels = append(m.Tunnels, t)
		}
	}
	for _, addr := range have.Endpoints {
		if addr.Is4() == is4 {
			m.Endpoints = append(m.Endpoints, addr)
		}
	}
	slices.SortFunc(m.Tunnels, func(a, c TunnelFilter) int { return cmp.Compare(a.Own.Addr().BitLen(), c.Own.Addr().BitLen()) })
	sortAddrs(m.Endpoints)
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
		for _, c := range b.claims {
			ranges = append(ranges, c.subnet)
		}
	}
	return Outermost(ranges)
}

// egress returns the links that have an InternalIP of this node beside other addresses of its
// family, such as floating, temporary or older ones, which the kernel may choose for masquerading
// (inet_select_addr of net/ipv4/devinet.c, RFC 6724 in IPv6).
func (b *builder) egress(m *Masquerade) []Egress {
	var all []Egress
	for on, addr := range b.resolver.sources {
		if m.Serves(on.is4) && !b.resolver.links[on.dev].Loopback && on.dev != ipvsDevice { // no packet leaves through these two
			all = append(all, Egress{on.dev, addr})
		}
	}
	slices.SortFunc(all, Egress.Compare)
	return all
}

// Ruleset returns the table in the syntax of nft(8). The dataplane makes the same table by netlink.
func (m *Masquerade) Ruleset() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", Table)
	for _, f := range families {
		if m.KnowsCluster(f.is4) {
			writeSet(&b, "cluster"+f.suffix, f.setType, true, pick(m.Cluster, f.is4, netip.Prefix.Addr))
		}
		if m.Serves(f.is4) {
			writeSet(&b, "nodes"+f.suffix, f.setType, false, pick(m.Nodes, f.is4, netip.Addr.Unmap))
		}
		if m.Filters(f.is4) {
			writeSet(&b, "endpoints"+f.suffix, f.setType, false, pick(m.Endpoints, f.is4, netip.Addr.Unmap))
		}
	}
	m.writeInput(&b)
	if len(m.Sources) > 0 {
		b.WriteString("\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n")
		fmt.Fprintf(&b, "\t\toifname %q return\n", m.Bridge)
		for _, f := range families {
			for _, src := range pick(m.Sources, f.is4, netip.Prefix.Addr) {
				outside := fmt.Sprintf("%[1]s saddr %[2]s %[1]s daddr != @cluster%[3]s %[1]s daddr != @nodes%[3]s %[1]s daddr != %[4]s",
					f.nft, src, f.suffix, f.multicast)
				for _, e := range m.Egress {
					if e.Addr.Is4() == f.is4 {
						fmt.Fprintf(&b, "\t\t%s oifname %q snat %s to %s fully-random\n", outside, e.Dev, f.nft, e.Addr)
					}
				}
				fmt.Fprintf(&b, "\t\t%s masquerade fully-random\n", outside)
			}
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("\tchain prerouting {\n\t\ttype filter hook prerouting priority raw; policy accept;\n")
	fmt.Fprintf(&b, "\t\tiifname %q ip daddr 127.0.0.0/8 drop\n", m.Bridge)
	fmt.Fprintf(&b, "\t\tiifname %q icmpv6 type nd-router-advert drop\n", m.Bridge)
	for _, t := range m.Tunnels {
		f := families[choose(t.Own.Addr().Is4(), 0, 1)]
		fmt.Fprintf(&b, "\t\tiifname %q meta nfproto != ipv%s drop\n", t.Dev, f.suffix)
		fmt.Fprintf(&b, "\t\tiifname %q %s saddr != @cluster%s drop\n", t.Dev, f.nft, f.suffix)
		fmt.Fprintf(&b, "\t\tiifname %q %s saddr %s drop\n", t.Dev, f.nft, t.Own)
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// writeInput writes the chain that drops VXLAN packets of unknown senders. The VNI is at bit 32 of
// the VXLAN header (RFC 7348, section 5), which follows UDP's 64 bits, so packets of other VXLAN
// devices on the port pass, except for fragments of IPv6, of which the first may end before the VNI.
func (m *Masquerade) writeInput(b *strings.Builder) {
	if len(m.Tunnels) == 0 {
		return
	}
	b.WriteString("\tchain input {\n\t\ttype filter hook input priority raw; policy accept;\n")
	for _, t := range m.Tunnels {
		f := families[choose(t.Own.Addr().Is4(), 0, 1)]
		unknown := fmt.Sprintf("%s saddr != @endpoints%s udp dport %d", f.nft, f.suffix, t.Port)
		fmt.Fprintf(b, "\t\t%s @th,96,24 %d drop\n", unknown, t.VNI)
		if !f.is4 {
			fmt.Fprintf(b, "\t\t%s exthdr frag exists drop\n", unknown)
		}
	}
	b.WriteString("\t}\n")
}

func pick[T fmt.Stringer](all []T, is4 bool, addr func(T) netip.Addr) []string {
	var picked []string
	for _, x := range all {
		if addr(x).Is4() == is4 {
			picked = append(picked, x.String())
		}
	}
	return picked
}

func writeSet(b *strings.Builder, name, setType string, interval bool, elements []string) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", name, setType)
	if interval {
		b.WriteString("\t\tflags interval\n")
	}
	if len(elements) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(elements, ", "))
	}
	b.WriteString("\t}\n")
}
