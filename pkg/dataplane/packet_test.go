package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A ruleTest is a packet that one rule of our table treats otherwise than the rest of it would: it
// is sent with the whole table, and once more without that rule.
type ruleTest struct {
	rule          string // of Ruleset
	send          datagram
	with, without string // how it comes out, "" for not at all
}

// rules has a packet for each rule of the table of newPacketMachine.
var rules = []ruleTest{
	{
		`oifname "plainroute0" return`,
		datagram{src: pod4, dst: "203.0.113.9"},
		"10.128.0.7 by plainroute0", "10.128.0.1 by plainroute0, of another port",
	},
	{
		`oifname "plainroute0" return`,
		datagram{src: pod6, dst: "2001:db8:9::9"},
		"fd01::7 by plainroute0", "fd01::1 by plainroute0, of another port",
	},
	{
		`ip saddr 10.128.0.0/24 ip daddr != @cluster4 ip daddr != @nodes4 ip daddr != 224.0.0.0/4 oifname "eth0" snat ip to 192.168.1.11 fully-random`,
		datagram{src: pod4, dst: "198.51.100.2"},
		"192.168.1.11 by eth0, of another port", "192.168.1.200 by eth0, of another port",
	},
	{
		`ip6 saddr fd01::/64 ip6 daddr != @cluster6 ip6 daddr != @nodes6 ip6 daddr != ff00::/8 oifname "eth0" snat ip6 to fd00:192:168:1::11 fully-random`,
		datagram{src: pod6, dst: "2001:db8:51::2"},
		"fd00:192:168:1::11 by eth0, of another port", "fd00:192:168:1::200 by eth0, of another port",
	},
	{
		`ip saddr 10.128.0.0/24 ip daddr != @cluster4 ip daddr != @nodes4 ip daddr != 224.0.0.0/4 masquerade fully-random`,
		datagram{src: pod4, dst: "198.51.101.2"},
		"172.16.0.2 by eth1, of another port", "10.128.0.7 by eth1",
	},
	{
		`ip6 saddr fd01::/64 ip6 daddr != @cluster6 ip6 daddr != @nodes6 ip6 daddr != ff00::/8 masquerade fully-random`,
		datagram{src: pod6, dst: "2001:db8:52::2"},
		"fd00:172:16::2 by eth1, of another port", "fd01::7 by eth1",
	},
	{
		`iifname "plainroute0" ip daddr 127.0.0.0/8 drop`, datagram{src: pod4, dst: "127.0.0.1"}, "", "10.128.0.7 to this host",
	},
	{
		`iifname "plainroute0" ip daddr 127.0.0.0/8 drop`, datagram{src: pod4, dst: "127.255.255.254"}, "", "10.128.0.7 to this host",
	},
	{
		`iifname "plainroute0" icmpv6 type nd-router-advert drop`, datagram{src: pod6, dst: "fd01:0:0:1::7", icmp: 134}, "", "fd01::7 by eth0",
	},
	{
		"ip saddr != @endpoints4 udp dport 4789 @th,96,24 112 drop",
		datagram{src: "10.128.1.7", dst: pod4, outer: "192.168.1.66"},
		"", "10.128.1.7 by plainroute0",
	},
	{
		"ip6 saddr != @endpoints6 udp dport 4789 @th,96,24 112 drop",
		datagram{src: "fd01:0:0:1::7", dst: pod6, outer: "fd00:192:168:1::66"},
		"", "fd01:0:0:1::7 by plainroute0",
	},
	{
		"ip6 saddr != @endpoints6 udp dport 4789 exthdr frag exists drop",
		datagram{src: "fd01:0:0:1::7", dst: pod6, outer: "fd00:192:168:1::66", fragmented: true},
		"", "fd01:0:0:1::7 by plainroute0",
	},
	{
		`iifname "plainroute-v4" meta nfproto != ipv4 drop`,
		datagram{src: "fd01:0:0:1::7", dst: pod6, outer: "192.168.1.12"},
		"", "fd01:0:0:1::7 by plainroute0",
	},
	{
		`iifname "plainroute-v6" meta nfproto != ipv6 drop`,
		datagram{src: "10.128.1.7", dst: pod4, outer: "fd00:192:168:1::12"},
		"", "10.128.1.7 by plainroute0",
	},
	{
		`iifname "plainroute-v4" ip saddr != @cluster4 drop`,
		datagram{src: "203.0.113.66", dst: pod4, outer: "192.168.1.12"},
		"", "203.0.113.66 by plainroute0",
	},
	{
		`iifname "plainroute-v6" ip6 saddr != @cluster6 drop`,
		datagram{src: "2001:db8::66", dst: pod6, outer: "fd00:192:168:1::12"},
		"", "2001:db8::66 by plainroute0",
	},
	{
		`iifname "plainroute-v4" ip saddr 10.128.0.0/24 drop`,
		datagram{src: "10.128.0.66", dst: pod4, outer: "192.168.1.12"},
		"", "10.128.0.66 by plainroute0",
	},
	{
		`iifname "plainroute-v6" ip6 saddr fd01::/64 drop`,
		datagram{src: "fd01::66", dst: pod6, outer: "fd00:192:168:1::12"},
		"", "fd01::66 by plainroute0",
	},
}

// untouched are packets that rules leave out, one for each condition of a rule.
var untouched = map[string]ruleTest{
	"another node's pod, IPv4":         {send: datagram{src: pod4, dst: "10.128.1.7"}, with: "10.128.0.7 by eth0"},
	"another node's pod, IPv6":         {send: datagram{src: pod6, dst: "fd01:0:0:1::7"}, with: "fd01::7 by eth0"},
	"another node, IPv4":               {send: datagram{src: pod4, dst: "192.168.1.12"}, with: "10.128.0.7 by eth0"},
	"another node, IPv6":               {send: datagram{src: pod6, dst: "fd00:192:168:1::12"}, with: "fd01::7 by eth0"},
	"multicast, IPv4":                  {send: datagram{src: "10.128.0.1", dst: "239.1.2.3", by: "eth0"}, with: "10.128.0.1 by eth0"},
	"multicast, IPv6":                  {send: datagram{src: "fd01::1", dst: "ff0e::1:2:3", by: "eth0"}, with: "fd01::1 by eth0"},
	"a router's solicitation":          {send: datagram{src: pod6, dst: "fd01:0:0:1::7", icmp: 133}, with: "fd01::7 by eth0"},
	"a neighbor's solicitation":        {send: datagram{src: pod6, dst: "fd01:0:0:1::7", icmp: 135}, with: "fd01::7 by eth0"},
	"an answer to a ping":              {send: datagram{src: pod6, dst: "fd01:0:0:1::7", icmp: 129}, with: "fd01::7 by eth0"},
	"no pod's source, IPv4":            {send: datagram{src: "10.200.0.7", dst: "198.51.100.2"}, with: "10.200.0.7 by eth0"},
	"no pod's source, IPv6":            {send: datagram{src: "fd02::7", dst: "2001:db8:51::2"}, with: "fd02::7 by eth0"},
	"this host's loopback by itself":   {send: datagram{src: "127.0.0.1", dst: "127.0.0.1", by: "lo"}, with: "127.0.0.1 to this host"},
	"this host, IPv4":                  {send: datagram{src: pod4, dst: "10.128.0.1"}, with: "10.128.0.7 to this host"},
	"this host, IPv6":                  {send: datagram{src: pod6, dst: "fd01::1"}, with: "fd01::7 to this host"},
	"::1, which the kernel drops":      {send: datagram{src: pod6, dst: "::1"}},
	"a peer's pod by a tunnel, IPv4":   {send: fromPeer(true), with: "10.128.1.9 by plainroute0"},
	"a peer's pod by a tunnel, IPv6":   {send: fromPeer(false), with: "fd01:0:0:1::9 by plainroute0"},
	"another peer's pod, by a peer":    {send: datagram{src: "10.128.2.7", dst: pod4, outer: "192.168.1.12"}, with: "10.128.2.7 by plainroute0"},
	"another VXLAN device on our port": {send: datagram{src: "172.29.7.2", dst: "172.29.7.1", outer: "192.168.1.66", vni: 7}, with: "172.29.7.2 to this host"},
	"what is beside 127.0.0.0/8, IPv4": {send: datagram{src: pod4, dst: "128.0.0.1"}, with: "192.168.1.11 by eth0, of another port"},
}

const otherVXLAN = "other.7" // a device of another program

const pod4, pod6 = "10.128.0.7", "fd01::7"

// Each rule of the table that plan prints has a packet here: a new rule needs one.
func TestEachRuleHasAPacket(t *testing.T) {
	m := newPacketMachine(t)
	want := m.rules()
	var have []string
	for _, r := range rules {
		if !slices.Contains(have, r.rule) {
			have = append(have, r.rule)
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		t.Errorf("the rules are\n%s\nand those with a packet\n%s", strings.Join(want, "\n"), strings.Join(have, "\n"))
	}
}

// Each rule has its effect on a packet, and no other part of the table has it.
func TestEachRuleByAPacket(t *testing.T) {
	for _, r := range rules {
		t.Run(r.send.dst, func(t *testing.T) {
			m := newPacketMachine(t, func(o *topology.Options) {
				o.Masquerade = !r.send.fragmented // or connection tracking puts them together
			})
			if got := m.send(r.send); got != r.with {
				t.Errorf("%v comes out as %q, want %q", r.send, got, r.with)
			}
			m.deleteRule(r.rule)
			if got := m.send(r.send); got != r.without {
				t.Errorf("without %s\n%v comes out as %q, want %q", r.rule, r.send, got, r.without)
			}
		})
	}
}

// Packets that no rule matches are unchanged.
func TestRulesLeaveOutByAPacket(t *testing.T) {
	m := newPacketMachine(t)
	for name, r := range untouched {
		if got := m.send(r.send); got != r.with {
			t.Errorf("%s: %v comes out as %q, want %q", name, r.send, got, r.with)
		}
	}
}

// A packetMachine is a node between a pod and the world, with a subnet of pods of each family. eth0
// has the InternalIPs, and before them another address of its family, by which the kernel would
// masquerade; eth1 has one.
type packetMachine struct {
	*machine
	sent int
	tap  int    // a socket that gets what passes each link
	here [2]int // sockets that get what comes to this host
}

func newPacketMachine(t *testing.T, more ...func(*topology.Options)) *packetMachine {
	t.Helper()
	m := &packetMachine{machine: newMachine(t)}
	m.needIPv6()
	m.tune = func(o *topology.Options) {
		o.Encapsulation, o.VNI, o.VXLANPort = topology.EncapsulateCrossSubnet, 112, 4789
		o.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.128.0.0/16"), netip.MustParsePrefix("fd01::/48")}
		for _, change := range more {
			change(o)
		}
	}
	m.must(m.nl.AddrDel(m.eth0, &rtnl.Addr{IPNet: ipNet(netip.MustParsePrefix("192.168.1.11/24"))}))
	for _, a := range []string{"192.168.1.200/24", "192.168.1.11/24", "fd00:192:168:1::200/64"} {
		m.addr("eth0", a)
	}
	m.addVeth("eth1", 1500)
	m.addr("eth1", "172.16.0.2/24")
	m.addr("eth1", "fd00:172:16::2/64")
	m.route("default", "192.168.1.1", "eth0", 0, 4)
	other := &rtnl.Vxlan{LinkAttrs: rtnl.LinkAttrs{Name: otherVXLAN}, VxlanId: 7, Port: 4789}
	m.must(m.nl.LinkAdd(other))
	m.up(otherVXLAN)
	m.addr(otherVXLAN, "172.29.7.1/24")
	m.pass(nodes(2))
	m.addVeth("pod", 1500)
	m.must(m.nl.LinkSetMaster(m.link("pod"), m.link(topology.Bridge)))
	m.settle(nodes(2))
	for _, n := range []struct{ dev, addr string }{
		{"eth0", "192.168.1.1"},
		{"eth0", "192.168.1.12"},
		{"eth0", "fd00:192:168:1::12"},
		{"eth0", "2001:db8:51::2"},
		{"eth1", "198.51.101.2"},
		{"eth1", "2001:db8:52::2"},
		{topology.Bridge, pod4},
		{topology.Bridge, pod6},
		{topology.Bridge, "203.0.113.9"},
		{topology.Bridge, "2001:db8:9::9"},
	} {
		m.neighborAt(n.dev, netip.MustParseAddr(n.addr))
	}
	for _, dev := range []string{"all", topology.Bridge, topology.Tunnel4} {
		m.sysctl("net/ipv4/conf/"+dev+"/rp_filter", "0")
	}
	m.sysctl("net/ipv4/conf/"+topology.Bridge+"/route_localnet", "1") // as portmap sets it
	m.listen()
	return m
}

// neighborAt makes an address one of a link's neighbors, which need not answer.
func (m *packetMachine) neighborAt(dev string, addr netip.Addr) {
	m.t.Helper()
	index := m.link(dev).Attrs().Index
	if routes, err := m.nl.RouteGet(addr.AsSlice()); err != nil || routes[0].LinkIndex != index || routes[0].Gw != nil {
		scope := rtnl.Scope(unix.RT_SCOPE_LINK)
		if addr.Is6() {
			scope = unix.RT_SCOPE_UNIVERSE
		}
		m.must(m.nl.RouteAdd(&rtnl.Route{Dst: ipNet(netip.PrefixFrom(addr, addr.BitLen())), LinkIndex: index, Scope: scope, Protocol: unix.RTPROT_STATIC}))
	}
	m.must(m.nl.NeighSet(&rtnl.Neigh{
		LinkIndex: index, IP: addr.AsSlice(), State: unix.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
	}))
}

// rules are the lines of what plan prints that are rules.
func (m *packetMachine) rules() []string {
	m.t.Helper()
	var all []string
	inChain := false
	for line := range strings.Lines(m.table().Ruleset()) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "chain "):
			inChain = true
		case line == "}":
			inChain = false
		case inChain && !strings.HasPrefix(line, "type "):
			all = append(all, line)
		}
	}
	return all
}

// chains are those of what plan prints, in its order.
func (m *packetMachine) chains() (names []string) {
	m.t.Helper()
	for line := range strings.Lines(m.table().Ruleset()) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "chain "); ok {
			names = append(names, strings.TrimSuffix(name, " {"))
		}
	}
	return names
}

// deleteRule takes from the kernel what stands at the place of a rule in the text.
func (m *packetMachine) deleteRule(rule string) {
	m.t.Helper()
	var have []*nftables.Rule
	for _, chain := range m.chains() {
		some, err := m.nft.GetRules(nftTable, &nftables.Chain{Name: chain, Table: nftTable})
		m.must(err)
		have = append(have, some...)
	}
	all := m.rules()
	if len(have) != len(all) || !slices.Contains(all, rule) {
		m.t.Fatalf("no %s among the %d rules\n%s", rule, len(have), strings.Join(all, "\n"))
	}
	c := m.nft4test()
	m.must(c.DelRule(have[slices.Index(all, rule)]))
	m.must(c.Flush())
}

// A change of the InternalIP changes the source of a tunnel's packets, which the kernel keeps for each FDB entry.
func TestSourceOfATunnelFollows(t *testing.T) {
	m := newPacketMachine(t)
	former := m.tune
	m.tune = func(o *topology.Options) { former(o); o.Encapsulation = topology.EncapsulateAlways }
	all := nodes(2)
	for _, own := range []string{"fd00:192:168:1::11", "fd00:192:168:1::200", "fd00:192:168:1::11"} {
		all[0].Addrs = []netip.Addr{all[0].Addrs[0], netip.MustParseAddr(own)}
		m.settle(all)
		if got := m.outerSource(datagram{src: pod6, dst: "fd01:0:0:1::7"}); got.String() != own {
			t.Errorf("the source is %s, want %s", got, own)
		}
	}
}

// outerSource returns the source of the VXLAN packet in which a datagram leaves by eth0.
func (m *packetMachine) outerSource(d datagram) netip.Addr {
	m.t.Helper()
	m.sent++
	payload := fmt.Sprintf("tunneled %d", m.sent)
	m.inject(d, firstPort, payload)
	for {
		packet, from := m.await()
		if src, _, data, ok := parseDatagram(packet); ok && from.Pkttype == unix.PACKET_OUTGOING && m.links.name(from.Ifindex) == "eth0" && strings.HasSuffix(data, payload) {
			return src
		}
	}
}

// An unknown sender's VXLAN packet is dropped in fragments too, of which the first ends before the VNI. Without
// masquerading there may be no connection tracking, which puts IPv6 fragments together before the chain input.
func TestForgedFragments(t *testing.T) {
	for _, masquerade := range []bool{true, false} {
		m := newPacketMachine(t, func(o *topology.Options) { o.Masquerade = masquerade })
		for outer, want := range map[string]string{"fd00:192:168:1::66": "", "fd00:192:168:1::12": "fd01:0:0:1::7 by plainroute0"} {
			if got := m.send(datagram{src: "fd01:0:0:1::7", dst: pod6, outer: outer, fragmented: true}); got != want {
				t.Errorf("masquerade=%t: from %s it comes out as %q, want %q", masquerade, outer, got, want)
			}
		}
	}
}
