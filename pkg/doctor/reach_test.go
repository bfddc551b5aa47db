package doctor

import (
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// newTunnelTestbed returns a dual testbed with another peer, node3, which is behind a router and reached by tunnels, and with
// what our table does to packets that come out of them.
func newTunnelTestbed(t *testing.T) *testbed {
	t.Helper()
	w := newDualTestbed(t)
	w.sh(`ip route add default via 192.168.1.1; ip -6 route add default via fd00:192:168:1::1
		ip link add plainroute-v4 address 02:18:0a:f4:01:00 mtu 1450 type vxlan id 112 local 192.168.1.11 dstport 4789 nolearning
		ip link add plainroute-v6 address 9e:1f:6c:e8:5c:48 mtu 1430 type vxlan id 112 local fd00:192:168:1::11 dstport 4789 nolearning
		ip link set plainroute-v4 alias plainroute up; ip link set plainroute-v6 alias plainroute up
		ip address add 10.244.1.0/32 dev plainroute-v4; ip address add fd00:10:244:1::/128 dev plainroute-v6 nodad
		ip neighbor replace 10.244.3.0 lladdr 02:18:0a:f4:03:00 dev plainroute-v4 nud permanent
		ip neighbor replace fe80::54a2:8cff:fe85:1b55 lladdr 56:a2:8c:85:1b:55 dev plainroute-v6 nud permanent
		bridge fdb replace 02:18:0a:f4:03:00 dev plainroute-v4 dst 192.168.2.13
		bridge fdb replace 56:a2:8c:85:1b:55 dev plainroute-v6 dst fd00:192:168:2::13
		ip route add 10.244.3.0/24 via 10.244.3.0 dev plainroute-v4 proto 112 src 10.244.1.0 metric 2301 onlink
		ip route add fd00:10:244:3::/64 via fe80::54a2:8cff:fe85:1b55 dev plainroute-v6 proto 112 src fd00:10:244:1:: metric 2048
		nft -f - <<'EOF'
		table inet plainroute {
			chain prerouting {
				type filter hook prerouting priority raw
				iifname "plainroute-v4" ip saddr != 10.244.0.0/16 drop
				iifname "plainroute-v6" ip6 saddr != fd00:10:244::/48 drop
			}
		}
EOF`)
	w.look()
	return w
}

func TestTunnelsAreWell(t *testing.T) {
	w := newTunnelTestbed(t)
	for _, check := range []string{"forward-policy", "policy-rules", "foreign-routes", "rp-filter", "forwarding"} {
		w.finds(check, problem.None)
	}
}

// Packets to peers on link and to those behind a tunnel pass other devices, each of which a firewall may block.
func TestFirewallBlocksTunnels(t *testing.T) {
	for _, dev := range []string{"eth0", "plainroute-v4"} {
		w := newTunnelTestbed(t)
		w.sh(`nft 'table inet fw { chain forward { type filter hook forward priority 0; iifname "` + dev + `" oifname "plainroute0" ip saddr 10.244.0.0/16 drop; }; }'`)
		finds(t, runCheck(t, "forward-policy", w.Target), problem.Error, "a firewall drops packets of pods", dev)
	}
}

// A rule that takes packets to a peer's end of a tunnel is found, and so is one for a peer on link.
func TestRuleForTunnels(t *testing.T) {
	for _, to := range []string{"10.244.3.0", "192.168.1.12"} {
		w := newTunnelTestbed(t)
		w.sh("ip rule add to " + to + " lookup 7; ip route add default via 192.168.1.99 dev eth0 table 7")
		found := runCheck(t, "policy-rules", w.Target)
		if len(found) == 0 {
			t.Errorf("a rule for %s is not found", to)
		}
	}
}

// Where the network is to route pod subnets by itself, doctor tries whether it does.
func TestUnderlayDropsPodPackets(t *testing.T) {
	l := newLAN(t)
	m := l.peer(2)
	l.state.Routes = nil
	subnet := prefixes(2)[0]
	report := &status.Report{Peers: []status.Peer{{Node: "node2", Subnet: subnet, Path: topology.PathUnderlay}}}
	target := func() *Target {
		p := l.target()
		p.Report = report
		return p
	}
	well(t, runCheck(t, "pod-packets", target()))
	dst, err := rtnl.ParseIPNet(subnet.String())
	l.must(err)
	l.must(m.nl.RouteReplace(&rtnl.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}))
	finds(t, runCheck(t, "pod-packets", target()), problem.Warning, "node2", "10.244.2.1 behind it does not", "router")
}
