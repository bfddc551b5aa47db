package topology

import (
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
	if len(m.Sources) > 0 {
		served := byFamily[bool]{m.Serves(true), m.Serves(false)}
		m.Cluster = slices.DeleteFunc(b.clusterRanges(m.Sources), func(p netip.Prefix) bool { return !*served.of(p.Addr().Is4()) })
		m.Nodes = slices.DeleteFunc(b.hops, func(a netip.Addr) bool { return !*served.of(a.Is4()) })
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
	for on, addr := range b.resolver.sources {
		if m.Serves(on.is4) && !b.resolver.loopback[on.dev] && on.dev != ipvsDevice { // no packet leaves through these two
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
		if m.Serves(f.is4) {
			writeSet(&b, "cluster"+f.suffix, f.setType, true, pick(m.Cluster, f.is4, netip.Prefix.Addr))
			writeSet(&b, "nodes"+f.suffix, f.setType, false, pick(m.Nodes, f.is4, func(a netip.Addr) netip.Addr { return a }))
		}
	}
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
	fmt.Fprintf(&b, "\t\tiifname %q icmpv6 type nd-router-advert drop\n\t}\n}\n", m.Bridge)
	return b.String()
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
