package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Limits of the neighbor table are raised if a cluster may fill it, and never lowered.
func TestNeighborTableLimits(t *testing.T) {
	for _, c := range []struct {
		nodes            int
		have             string
		want1, want2, w3 string
	}{
		{3, "128", "", "", ""},
		{256, "128", "", "", ""},
		{600, "128", "1024", "2048", "4096"},
		{600, "2000", "", "2048", "4096"},
		{600, "100000", "", "", ""},
		{5000, "1024", "8192", "16384", "32768"},
	} {
		t.Run(fmt.Sprintf("%d nodes, %s", c.nodes, c.have), func(t *testing.T) {
			actual := allSysctls("eth0")
			for which := 1; which <= 3; which++ {
				actual.Sysctls[NeighSysctl(4, which)] = c.have
			}
			state, problems := Desired(Options{NodeName: "node0", Bridge: Bridge}, parseHost(t, defaultHost), neighborNodes(c.nodes), actual)
			for which, want := range []string{c.want1, c.want2, c.w3} {
				if got := state.Sysctls[NeighSysctl(4, which+1)]; got != want {
					t.Errorf("gc_thresh%d: got %q, want %q", which+1, got, want)
				}
			}
			if i := slices.IndexFunc(problems, func(p problem.Problem) bool { return p.Reason == problem.SettingMissing }); i >= 0 {
				t.Errorf("problem: %v", problems[i])
			}
		})
	}
}

// In a network namespace that is not the first the limits can't be read. That is reported, but
// keeps no node from being ready.
func TestNeighborTableLimitsUnseen(t *testing.T) {
	_, problems := Desired(Options{NodeName: "node0", Bridge: Bridge}, parseHost(t, defaultHost), neighborNodes(600), allSysctls("eth0"))
	reported := func(p problem.Problem) bool {
		return p.Reason == problem.SettingMissing && !p.BlocksReady && strings.Contains(p.Message, "gc_thresh3") && strings.Contains(p.Message, "4096 at least")
	}
	if !slices.ContainsFunc(problems, reported) {
		t.Errorf("got %v", problems)
	}
}

// neighborNodes are our own Node and peers on the LAN of defaultHost.
func neighborNodes(n int) []*Node {
	nodes := make([]*Node, n)
	for i := range nodes {
		nodes[i] = &Node{
			Name:     fmt.Sprintf("node%d", i),
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100 + byte(i>>8), byte(i), 0}), 24)},
			Addrs:    []netip.Addr{netip.MustParseAddr("192.168.1.11")},
		}
		if i > 0 {
			nodes[i].Addrs[0] = netip.AddrFrom4([4]byte{192, 168, 1, 12 + byte(i%200)})
		}
	}
	return nodes
}
