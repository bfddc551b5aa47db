package topology

import (
	"fmt"
	"net/netip"
	"strings"
)

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

var families = []struct {
	is4                             bool
	suffix, nft, setType, multicast string
}{
	{true, "4", "ip", "ipv4_addr", "224.0.0.0/4"},
	{false, "6", "ip6", "ipv6_addr", "ff00::/8"},
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
