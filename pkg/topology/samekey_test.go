package topology

import (
	"net/netip"
	"slices"
	"testing"
)

// If a foreign route has the key of ours, ours keeps its former next hop: packets to that one are
// not masqueraded, although the Node prefers another one.
func TestRouteWithAForeignKeyKeepsItsNextHop(t *testing.T) {
	former, rather := netip.MustParseAddr("192.168.1.112"), netip.MustParseAddr("192.168.1.12")
	host := parseHost(t, `
links:
- {name: eth0, mtu: 1500, addrs: [192.168.1.11/24]}
routes:
- {dst: 192.168.1.0/24, dev: eth0, protocol: 2}
- {dst: 10.244.2.0/24, via: 192.168.1.99, dev: eth0, protocol: 4, metric: 2300}
`)
	nodes := []*Node{
		NodeFrom(kubeNode("node1", 3, []string{"10.244.1.0/24"}, []string{"192.168.1.11"})),
		NodeFrom(kubeNode("node2", 2, []string{"10.244.2.0/24"}, []string{rather.String(), former.String()})),
	}
	have := State{Routes: []*Route{{Dst: nodes[1].PodCIDRs[0], Via: former, Dev: "eth0", Protocol: Protocol, Metric: PeerMetric(nodes[1].PodCIDRs[0])}}}
	want, _ := Desired(Options{NodeName: "node1", Masquerade: true, Bridge: Bridge, RunDir: "/run/plainroute"}, host, nodes, have)
	if i := slices.IndexFunc(want.Routes, func(r *Route) bool { return r.Dst == nodes[1].PodCIDRs[0] }); i < 0 || !SameRoute(want.Routes[i], have.Routes[0]) {
		t.Errorf("the routes are %v", want.Routes)
	}
	if got := want.Masquerade.Nodes; !slices.Equal(got, []netip.Addr{former}) {
		t.Errorf("the Nodes that see pods' addresses are %v", got)
	}
}
