package topology

import (
	"net/netip"
	"strings"
	"testing"
)

// The table in the syntax of nft. pkg/dataplane tests that the kernel has the same one.
func TestRuleset(t *testing.T) {
	whole := Masquerade{
		Bridge: "cni0", Sources: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
		Egress:  []Egress{{"eth0", netip.MustParseAddr("192.168.1.11")}, {"eth1", netip.MustParseAddr("fd00:192:168:1::11")}},
		Cluster: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.250.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
		Nodes:   []netip.Addr{netip.MustParseAddr("192.168.1.12"), netip.MustParseAddr("192.168.1.13")},
	}
	for want, m := range map[string]Masquerade{
		`table inet plainroute {
	set cluster4 {
		type ipv4_addr
		flags interval
		elements = { 10.244.0.0/16, 10.250.0.0/16 }
	}
	set nodes4 {
		type ipv4_addr
		elements = { 192.168.1.12, 192.168.1.13 }
	}
	set cluster6 {
		type ipv6_addr
		flags interval
		elements = { fd00:10:244::/56 }
	}
	set nodes6 {
		type ipv6_addr
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "cni0" return
		ip saddr 10.244.1.0/24 ip daddr != @cluster4 ip daddr != @nodes4 ip daddr != 224.0.0.0/4 oifname "eth0" snat ip to 192.168.1.11 fully-random
		ip saddr 10.244.1.0/24 ip daddr != @cluster4 ip daddr != @nodes4 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip6 saddr fd00:10:244:1::/64 ip6 daddr != @cluster6 ip6 daddr != @nodes6 ip6 daddr != ff00::/8 oifname "eth1" snat ip6 to fd00:192:168:1::11 fully-random
		ip6 saddr fd00:10:244:1::/64 ip6 daddr != @cluster6 ip6 daddr != @nodes6 ip6 daddr != ff00::/8 masquerade fully-random
	}
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "cni0" ip daddr 127.0.0.0/8 drop
`: whole,
		`table inet plainroute {
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "cni0" ip daddr 127.0.0.0/8 drop
`: {Bridge: "cni0"},
	} {
		if got := m.Ruleset(); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, " drop\n\t}\n}\n") {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
	}
}
