package main

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A plan for so many Nodes that the neighbor table would be too small raises the table's limits,
// and has only the Problems that the agent would have.
func TestPlanForManyNodes(t *testing.T) {
	var nodes []*topology.Node
	for i := range 600 {
		nodes = append(nodes, &topology.Node{
			Name:     fmt.Sprintf("node%d", i),
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)},
			Addrs:    []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}).Next()},
		})
	}
	host := topology.Host{
		Links:  []topology.Link{{Name: "eth0", MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.0.1/16")}}},
		Routes: []topology.Route{{Dst: netip.MustParsePrefix("192.168.0.0/16"), Dev: "eth0", Protocol: 2}},
	}
	opts := topology.Options{NodeName: "node0", Bridge: topology.Bridge}
	state, problems := topology.Desired(opts, host, nodes, freshState(topology.Bridge, host))
	if len(problems) > 0 {
		t.Errorf("problems %v", problems)
	}
	if got := state.Sysctls[topology.NeighSysctl(4, 3)]; got != "4096" {
		t.Errorf("the limit is %q", got)
	}
}
