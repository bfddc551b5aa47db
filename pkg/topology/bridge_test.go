package topology

import (
	"net/netip"
	"slices"
	"testing"
)

// While no Node and no length of pod subnets is known, the bridge's gateways are desired once each:
// a second time would be a change in every pass.
func TestHeldAddressesAreDesiredOnce(t *testing.T) {
	gateways := []Address{
		{Bridge, netip.MustParsePrefix("10.244.1.1/24")}, {Bridge, netip.MustParsePrefix("fd00:10:244:1::1/64")},
	}
	actual := State{Addresses: gateways, CNI: &CNI{Bridge: Bridge, MTU: 1500, Subnets: []netip.Prefix{
		netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64"),
	}}}
	host := Host{Links: []Link{{Name: Bridge}}}
	desired, _ := Desired(Options{NodeName: "node1", Bridge: Bridge}, host, nil, actual)
	if len(desired.Addresses) != len(gateways) {
		t.Errorf("desired %v; want %v", desired.Addresses, gateways)
	}
}

// The gateway of a former subnet is deleted once deletions are confirmed, also if they were pending
// when the config followed: from then on only the agent's memory identifies it.
func TestFormerGatewayIsRememberedWhileItsRemovalWaits(t *testing.T) {
	prefix := netip.MustParsePrefix
	former, now := Address{Bridge, prefix("10.244.1.1/24")}, Address{Bridge, prefix("10.244.7.1/24")}
	node := &Node{Name: "node1", PodCIDRs: []netip.Prefix{prefix("10.244.7.0/24")}, Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.11")}}
	host := Host{
		Links:  []Link{{Name: "eth0", MTU: 1500, Addrs: []netip.Prefix{prefix("192.168.1.11/24")}}, {Name: Bridge}},
		Routes: []Route{{Dst: prefix("192.168.1.0/24"), Dev: "eth0"}},
	}
	actual := State{
		Addresses: []Address{former}, Sysctls: map[string]string{SysctlForward4: "1", SysctlBridgeNF4: "1"},
		CNI: &CNI{Bridge: Bridge, MTU: 1500, Subnets: []netip.Prefix{prefix("10.244.1.0/24")}},
	}
	for pass := range 3 {
		desired, problems := Desired(Options{NodeName: "node1", Bridge: Bridge}, host, []*Node{node}, actual)
		if !slices.Equal(desired.Addresses, []Address{now}) {
			t.Fatalf("pass %d: desired %v; want %v (problems: %v)", pass, desired.Addresses, now, problems)
		}
		actual.Addresses, actual.CNI = []Address{former, now}, desired.CNI
		actual = actual.After(desired)
	}
}
