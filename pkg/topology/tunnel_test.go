package topology

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
)

// tunneling returns options, a host and three Nodes, of which the third is behind a router.
func tunneling(t *testing.T) (Options, Host, []*Node) {
	t.Helper()
	opts := Options{NodeName: "node1", Masquerade: true, Bridge: Bridge, Encapsulation: EncapsulateCrossSubnet, VNI: 112, VXLANPort: 4789}
	return opts, parseHost(t, defaultHost), parseNodes(t, `node1 3h 10.244.1.0/24,fd00:10:244:1::/64 192.168.1.11,fd00:192:168:1::11
node2 3h 10.244.2.0/24,fd00:10:244:2::/64 192.168.1.12,fd00:192:168:1::12
node3 3h 10.244.3.0/24,fd00:10:244:3::/64 192.168.2.13,fd00:192:168:2::13
`)
}

func TestTunnelMAC(t *testing.T) {
	for subnet, want := range map[string]string{
		"10.244.7.0/24": "02:18:0a:f4:07:00", "10.244.0.0/21": "02:15:0a:f4:00:00", "fd00:0:aa:7176::/64": "b2:ac:5b:be:7d:1e",
	} {
		mac := TunnelMAC(netip.MustParsePrefix(subnet))
		text, err := json.Marshal(mac)
		var again MAC
		if err == nil {
			err = json.Unmarshal(text, &again)
		}
		if mac.String() != want || mac[0]&3 != 2 || again != mac || err != nil {
			t.Errorf("that of %s is %s, and %s after JSON (%v); want %s", subnet, mac, again, err, want)
		}
	}
	for _, text := range []string{"", "02:00", "02:18:0a:f4:07:00:00:01", "x"} {
		if new(MAC).UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is a MAC address", text)
		}
	}
}

// Two pod subnets with one MAC address, found by trying 13 million of them: both Nodes are reported, and the incumbent keeps
// it, or else the first subnet.
func TestNodesWithOneMAC(t *testing.T) {
	opts, host, nodes := tunneling(t)
	nodes[1].Addrs[1] = netip.MustParseAddr("fd00:192:168:2::12")
	first, second := netip.MustParsePrefix("fd00:0:99:e6f9::/64"), netip.MustParsePrefix("fd00:0:aa:7176::/64")
	nodes[1].PodCIDRs[1], nodes[2].PodCIDRs[1] = first, second
	desired, problems := Desired(opts, host, nodes, State{})
	check := func(reached, lost netip.Prefix) {
		t.Helper()
		if desired.Reach(reached).Path != PathTunnel || desired.Reach(lost) != (Reach{}) || routeTo(desired.Routes, lost, MetricPeer) != nil {
			t.Errorf("%s is reached by %+v, %s by %+v", reached, desired.Reach(reached), lost, desired.Reach(lost))
		}
		reported := map[string]bool{}
		for _, p := range problems {
			reported[p.Node] = reported[p.Node] || p.Reason == problem.MACShared
		}
		if !reported["node2"] || !reported["node3"] {
			t.Errorf("not both are reported: %v", problems)
		}
	}
	check(first, second)
	incumbent := State{
		FDB:    []FDBEntry{{Tunnel6, TunnelMAC(second), nodes[2].Addrs[1]}},
		Routes: []Route{{Dst: second, Via: TunnelGateway(second), Dev: Tunnel6, Protocol: Protocol, Metric: MetricPeer}},
	}
	desired, problems = Desired(opts, host, nodes, incumbent)
	check(second, first)
	nodes[0].PodCIDRs[1], nodes[1].PodCIDRs[1] = first, netip.MustParsePrefix("fd00:10:244:2::/64")
	desired, _ = Desired(opts, host, nodes, State{})
	if desired.Reach(second) != (Reach{}) {
		t.Errorf("a peer with our own MAC address is reached by %+v", desired.Reach(second))
	}
}

func TestReach(t *testing.T) {
	opts, host, nodes := tunneling(t)
	desired, _ := Desired(opts, host, nodes, State{})
	for subnet, want := range map[string]Reach{
		"10.244.2.0/24": {"node2", PathDirect, nodes[1].Addrs[0], "192.168.1.0/24 dev eth0 proto 2", ""},
		"10.244.3.0/24": {"node3", PathTunnel, nodes[2].Addrs[0], "default via 192.168.1.1 dev eth0", ""},
		"10.244.1.0/24": {}, "10.244.9.0/24": {},
	} {
		if got := desired.Reach(netip.MustParsePrefix(subnet)); got != want {
			t.Errorf("%s is reached by %+v, want %+v", subnet, got, want)
		}
	}
	nodes[1].Addrs = append([]netip.Addr{netip.MustParseAddr("172.16.0.12")}, nodes[1].Addrs...)
	desired, _ = Desired(opts, host, nodes, State{})
	if got := desired.Reach(nodes[1].PodCIDRs[0]); got.InternalIP != nodes[1].Addrs[1] || got.Before != "InternalIP 172.16.0.12 is behind gateway 192.168.1.1 on eth0, not on a link of ours" {
		t.Errorf("by its second InternalIP it is reached by %+v", got)
	}
	host.Links[1].PointToPoint = true
	for setting, want := range map[Encapsulation]Path{EncapsulateNever: PathDirect, EncapsulateCrossSubnet: PathTunnel, EncapsulateAlways: PathTunnel} {
		opts.Encapsulation = setting
		desired, _ := Desired(opts, host, nodes, State{})
		if got := desired.Reach(nodes[1].PodCIDRs[0]); got.Path != want {
			t.Errorf("on a point-to-point link with --encapsulation=%s: %+v, want the path %s", setting, got, want)
		}
	}
}

// A network manager removes the link's addresses for a moment: the tunnels stay, and what is in them.
func TestTunnelsStayWithoutTheirAddress(t *testing.T) {
	opts, host, nodes := tunneling(t)
	before, _ := Desired(opts, host, nodes, State{})
	host.Links[1].Addrs, host.Routes = nil, nil
	after, _ := Desired(opts, host, nodes, before)
	if len(before.Tunnels) != 2 || !slices.Equal(after.Tunnels, before.Tunnels) || !slices.Equal(after.Addresses, before.Addresses) ||
		!slices.Equal(after.Routes, before.Routes) || !slices.Equal(after.FDB, before.FDB) || !slices.Equal(after.Neighbors, before.Neighbors) {
		t.Errorf("before:\n%+v\nafter:\n%+v", before, after)
	}
	nodes[0].Addrs = []netip.Addr{netip.MustParseAddr("192.168.1.99")}
	if gone, _ := Desired(opts, host, nodes, before); len(gone.Tunnels) != 0 {
		t.Errorf("the Node has another address, and a tunnel stays: %+v", gone.Tunnels)
	}
}

// Strict filters become loose on the uplink and the tunnel, and others stay.
func TestReversePathFilters(t *testing.T) {
	opts, host, nodes := tunneling(t)
	for _, c := range []struct{ all, own, want string }{
		{"0", "0", ""}, {"0", "1", "2"}, {"1", "0", "2"}, {"1", "1", "2"}, {"2", "0", ""}, {"0", "2", "2"}, {"2", "1", "2"},
	} {
		actual := State{Sysctls: map[string]string{
			ConfSysctl(4, "all", "rp_filter"): c.all, ConfSysctl(4, "eth0", "rp_filter"): c.own, ConfSysctl(4, Tunnel4, "rp_filter"): c.own,
			ConfSysctl(4, "eth9", "rp_filter"): c.own,
		}}
		desired, _ := Desired(opts, host, nodes, actual)
		for dev, want := range map[string]string{"eth0": c.want, Tunnel4: c.want, "eth9": ""} {
			if got := desired.Sysctls[ConfSysctl(4, dev, "rp_filter")]; got != want {
				t.Errorf("with all=%s and %s=%s: %q, want %q", c.all, dev, c.own, got, want)
			}
		}
		opts := opts
		opts.Encapsulation = EncapsulateNever
		if desired, _ := Desired(opts, host, nodes, actual); desired.Sysctls[ConfSysctl(4, "eth0", "rp_filter")] != "" {
			t.Error("a filter is changed without encapsulation")
		}
		host := host
		host.Links = append(slices.Clone(host.Links), Link{Name: "eth9", Addrs: []netip.Prefix{netip.MustParsePrefix("10.50.0.11/24")}})
		own := *nodes[0]
		own.Addrs = append([]netip.Addr{netip.MustParseAddr("10.50.0.11")}, own.Addrs...)
		desired, _ = Desired(opts, host, append([]*Node{&own}, nodes[1:]...), actual)
		for _, dev := range []string{"eth0", "eth9"} {
			if got := desired.Sysctls[ConfSysctl(4, dev, "rp_filter")]; got != c.want {
				t.Errorf("of two links, with all=%s and %s=%s: %q, want %q", c.all, dev, c.own, got, c.want)
			}
		}
	}
}

// The sets of single addresses have no flag interval, with which nft would print ranges.
func TestRulesetOfTunnels(t *testing.T) {
	opts, host, nodes := tunneling(t)
	desired, _ := Desired(opts, host, nodes, State{})
	text := desired.Masquerade.Ruleset()
	if strings.Count(text, "flags interval") != 2 || strings.Count(text, "set endpoints") != 2 || strings.Count(text, "@th,96,24 112 drop") != 2 {
		t.Error(text)
	}
}
