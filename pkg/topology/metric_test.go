package topology

import (
	"net/netip"
	"slices"
	"testing"
)

func TestPeerMetric(t *testing.T) {
	for subnet, want := range map[string]uint32{
		"10.244.2.0/24": 2048 + 10 ^ 244 ^ 2, "10.0.0.64/26": 2048 + 10 ^ 64, "255.0.0.0/8": 2303,
		"fd00:10:244:2::/64": 2048,
	} {
		p := netip.MustParsePrefix(subnet)
		if got := PeerMetric(p); got != want {
			t.Errorf("%s has the metric %d, want %d", p, got, want)
		}
		if r := (&Route{Dst: p, Metric: want + 1}); r.ToPeer() {
			t.Errorf("%q counts as a route to a peer", r)
		}
	}
}

// The kernel searches the routes of one metric one by one, so few of many subnets share one.
func TestPeerMetricsDiffer(t *testing.T) {
	for _, bits := range []int{20, 24, 26, 28} {
		const n = 4096
		counts := map[uint32]int{}
		for i := range n {
			number := uint32(10<<24 + i<<(32-bits))
			counts[PeerMetric(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(number >> 24), byte(number >> 16), byte(number >> 8), byte(number)}), bits))]++
		}
		for metric, count := range counts {
			if count > 2*n/256 || metric < MetricPeer || metric >= MetricBridge {
				t.Errorf("of %d subnets of length %d, %d have the metric %d", n, bits, count, metric)
			}
		}
	}
}

// Routes of earlier versions, all with one metric, count as those of their Nodes until they are replaced.
func TestRoutesOfAnEarlierVersion(t *testing.T) {
	host := parseHost(t, defaultHost)
	subnet := netip.MustParsePrefix("10.244.2.0/24")
	nodes := slices.Concat(goodNodes()[:1], []*Node{
		{Name: "older", UID: "1", PodCIDRs: []netip.Prefix{subnet}, Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.12")}},
		{Name: "younger", UID: "2", PodCIDRs: []netip.Prefix{subnet}, Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.13")}},
	})
	for _, via := range []string{"192.168.1.12", "192.168.1.13"} {
		former := &Route{Dst: subnet, Via: netip.MustParseAddr(via), Dev: "eth0", Protocol: Protocol, Metric: MetricPeer}
		desired, _ := Desired(Options{NodeName: "node1", Bridge: Bridge}, host, nodes, withKernel(State{Routes: []*Route{former}}))
		want := *former
		want.Metric = PeerMetric(subnet)
		if !slices.ContainsFunc(desired.Routes, func(r *Route) bool { return *r == want }) || slices.ContainsFunc(desired.Routes, func(r *Route) bool { return *r == *former }) {
			t.Errorf("after %q: %v", former, desired.Routes)
		}
		if now := InPlaceOf(desired.Routes, former); now == nil || *now != want {
			t.Errorf("%q is replaced by %v", former, now)
		}
	}
}
