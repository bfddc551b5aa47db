package topology

import (
	"net/netip"
	"testing"
)

// While no Node is known, nor how long pod subnets are, the bridge's gateways are desired once each: a second time
// would be a change in every pass.
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
