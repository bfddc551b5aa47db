package topology

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

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
// it, or else the older Node.
func TestNodesWithOneMAC(t *testing.T) {
	opts, host, nodes := tunneling(t)
	nodes[1].Addrs[1] = netip.MustParseAddr("fd00:192:168:2::12")
	first, second := netip.MustParsePrefix(oneMAC[0]), netip.MustParsePrefix(oneMAC[1])
	nodes[1].PodCIDRs[1], nodes[2].PodCIDRs[1] = first, second
	desired, problems := Desired(opts, host, nodes, State{})
	check := func(reached, lost netip.Prefix) {
		t.Helper()
		if desired.Reach(reached).Path != PathTunnel || desired.Reach(lost) != (Reach{}) || RouteTo(desired.Routes, lost, PeerMetric(lost)) != nil {
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
	nodes[2].Created = nodes[1].Created.Add(-time.Hour)
	desired, problems = Desired(opts, host, nodes, State{})
	check(second, first)
	nodes[2].Created = nodes[1].Created.Add(time.Hour)
	incumbent := State{
		FDB:    []FDBEntry{{Tunnel6, TunnelMAC(second), nodes[2].Addrs[1]}},
		Routes: []*Route{{Dst: second, Via: TunnelGateway(second), Dev: Tunnel6, Protocol: Protocol, Metric: PeerMetric(second)}},
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
	for subnet, want := range map[string]struct {
		reach Reach
		by    string
	}{
		"10.244.2.0/24": {Reach{Node: "node2", Path: PathDirect, InternalIP: nodes[1].Addrs[0]}, "192.168.1.0/24 dev eth0 proto 2"},
		"10.244.3.0/24": {Reach{Node: "node3", Path: PathTunnel, InternalIP: nodes[2].Addrs[0]}, "default via 192.168.1.1 dev eth0"},
		"10.244.1.0/24": {}, "10.244.9.0/24": {},
	} {
		got, by := desired.Reach(netip.MustParsePrefix(subnet)), ""
		if got.By != nil {
			by = got.By.String()
		}
		if got.By = nil; got != want.reach || by != want.by {
			t.Errorf("%s is reached by %+v, by %q; want %+v", subnet, got, by, want)
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
		!slices.EqualFunc(after.Routes, before.Routes, SameRoute) || !slices.Equal(after.FDB, before.FDB) || !slices.Equal(after.Neighbors, before.Neighbors) {
		t.Errorf("before:\n%+v\nafter:\n%+v", before, after)
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

// withMTU returns a host whose uplink has another MTU.
func withMTU(host Host, mtu int) Host {
	host.Links = slices.Clone(host.Links)
	for i := range host.Links {
		if !host.Links[i].Loopback {
			host.Links[i].MTU = mtu
		}
	}
	return host
}

// Pods get the uplink's MTU, less what the tunnels of their families add. What is too small for a family is reported, and
// no tunnel and no CNI config is made.
func TestMTUWithTunnels(t *testing.T) {
	opts, host, both := tunneling(t)
	alone := parseNodes(t, "node1 3h 10.244.1.0/24 192.168.1.11\n")
	for _, c := range []struct {
		nodes            []*Node
		uplink, mtu      int // the uplink's, and --mtu
		pods             int
		tunnel4, tunnel6 int
		problem          string
	}{
		{both, 1500, 0, 1430, 1450, 1430, ""},
		{alone, 1500, 0, 1450, 1450, 0, ""},
		{both, 9001, 0, 8931, 8951, 8931, ""},
		{both, 70000, 0, 65465, 65485, 65465, ""},
		{both, 1350, 0, 1280, 1300, 1280, ""},
		{both, 1349, 0, 0, 1299, 0, "the uplink's MTU of 1349 leaves 1279 for packets in plainroute-v6, and IPv6 takes 1280 at least; raise it"},
		{alone, 626, 0, 576, 576, 0, ""},
		{alone, 117, 0, 0, 0, 0, "the uplink's MTU of 117 leaves 67 for packets in plainroute-v4, and IPv4 takes 68 at least; raise it"},
		{both, 1500, 1400, 1400, 1400, 1400, ""},
		{both, 1500, 1500, 1500, 1450, 1430, ""},
		{both, 1500, 1440, 1440, 1440, 1430, ""},
	} {
		opts.MTU = c.mtu
		desired, problems := Desired(opts, withMTU(host, c.uplink), c.nodes, allSysctls("lo", "eth0", Bridge))
		got := map[string]int{}
		for _, tunnel := range desired.Tunnels {
			got[tunnel.Name] = tunnel.MTU
		}
		if desired.CNI != nil {
			got["pods"] = desired.CNI.MTU
		}
		if got["pods"] != c.pods || got[Tunnel4] != c.tunnel4 || got[Tunnel6] != c.tunnel6 {
			t.Errorf("an uplink of %d, --mtu=%d: got %v, want %d, %d and %d", c.uplink, c.mtu, got, c.pods, c.tunnel4, c.tunnel6)
		}
		failed := slices.DeleteFunc(problems, func(p problem.Problem) bool { return p.Reason != problem.TunnelFailed || !p.BlocksReady })
		if (c.problem != "") != (len(failed) == 1) || len(failed) == 1 && !strings.Contains(failed[0].Message, c.problem) {
			t.Errorf("an uplink of %d, --mtu=%d: the problems are %v", c.uplink, c.mtu, failed)
		}
	}
}

// If the InternalIP is on lo, packets of the tunnel leave by the links of the routes to peers' InternalIPs, or by those of
// default routes if there is no such route.
func TestMTUOfATunnelFromLo(t *testing.T) {
	opts, _, _ := tunneling(t)
	opts.NodeCIDRs = []netip.Prefix{netip.MustParsePrefix("192.168.50.0/24"), netip.MustParsePrefix("fd00::/16")}
	nodes := parseNodes(t, "node1 3h 10.244.1.0/24 192.168.50.1\nnode2 3h 10.244.2.0/24 192.168.50.2,192.168.60.2,fd00::2\n")
	const links = `links:
- {name: lo, mtu: 65536, addrs: [192.168.50.1/32], loopback: true}
- {name: eth0, mtu: 9000, addrs: [192.168.1.11/24]}
- {name: eth1, mtu: 1400, addrs: [192.168.2.11/24]}
- {name: eth2, mtu: 1300}
routes:
- {dst: 192.168.1.0/24, dev: eth0, protocol: 2}
- {dst: 192.168.2.0/24, dev: eth1, protocol: 2}
- {dst: 192.168.60.2/32, via: 192.168.1.1, dev: eth2}
- {dst: "fd00::/16", dev: eth2}
`
	for routes, want := range map[string]int{
		"": 1450,
		"- {dst: 192.168.50.2/32, via: 192.168.2.1, dev: eth1}\n":                                                  1350,
		"- {dst: 192.168.50.2/32, via: 192.168.1.1, dev: eth0}\n- {dst: 0.0.0.0/0, via: 192.168.2.1, dev: eth1}\n": 8950,
		"- {dst: 0.0.0.0/0, via: 192.168.2.1, dev: eth1}\n":                                                        1350,
		"- {dst: 192.168.50.2/32, dev: lo}\n- {dst: 0.0.0.0/0, via: 192.168.2.1, dev: eth1}\n":                     1350,
	} {
		desired, problems := Desired(opts, parseHost(t, links+routes), nodes, allSysctls("lo", "eth0", "eth1", Bridge))
		if len(desired.Tunnels) != 1 || desired.Tunnels[0].MTU != want || desired.CNI == nil || desired.CNI.MTU != want {
			t.Errorf("with\n%sgot %v and %+v, want %d; %v", routes, desired.Tunnels, desired.CNI, want, problems)
		}
		after, _ := Desired(opts, parseHost(t, links), nodes, desired)
		if len(after.Tunnels) != 1 || after.Tunnels[0].MTU != want || !after.CNI.Equal(desired.CNI) {
			t.Errorf("with\n%sand then without routes: got %v and %+v, want %d", routes, after.Tunnels, after.CNI, want)
		}
		never := opts
		never.Encapsulation = EncapsulateNever
		if after, _ := Desired(never, parseHost(t, links), nodes, desired); len(after.Tunnels) != 0 || !after.CNI.Equal(desired.CNI) {
			t.Errorf("with\n%sand then without routes and tunnels: got %+v, want %d", routes, after.CNI, want)
		}
	}
}

// A tunnel that carries packets stays, with all that is on it, when this host could not have it any more.
func TestTunnelThatIsThereStays(t *testing.T) {
	opts, host, nodes := tunneling(t)
	before, _ := Desired(opts, host, nodes, allSysctls("lo", "eth0", Bridge))
	withoutAddrs := withMTU(host, 1500)
	for i := range withoutAddrs.Links {
		withoutAddrs.Links[i].Addrs = nil
	}
	down := before
	down.Tunnels = slices.Clone(before.Tunnels)
	down.Tunnels[1].Up = false
	for name, now := range map[string]Host{
		"large packets to peers are lost in the tunnel, which stays as it is: the uplink's MTU of 1300 leaves 1230": withMTU(host, 1300),
		"no link of this host has": withoutAddrs,
	} {
		after, problems := Desired(opts, now, nodes, down)
		if !slices.Equal(after.FDB, before.FDB) || !slices.Equal(after.Neighbors, before.Neighbors) || !slices.EqualFunc(after.Routes, before.Routes, SameRoute) || len(after.Tunnels) != 2 || after.Tunnels[1] != before.Tunnels[1] || !after.CNI.Equal(before.CNI) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, after, before)
		}
		if !slices.ContainsFunc(problems, func(p problem.Problem) bool { return p.BlocksReady && strings.Contains(p.Message, name) }) {
			t.Errorf("%s: it is not reported: %v", name, problems)
		}
	}
}
