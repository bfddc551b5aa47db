package plan

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/plainroute/plainroute/pkg/topology"
)

func some() Changes {
	route := func(s string) topology.Route {
		return topology.Route{Dst: netip.MustParsePrefix(s), Protocol: topology.Protocol, Metric: topology.MetricPeer}
	}
	return Changes{
		AddBridge:    &topology.Device{Name: "plainroute0", Up: true},
		SetDevices:   []topology.Device{{Name: "plainroute0", Up: true}, {Name: "veth1", Master: "plainroute0", Up: true}},
		Sysctls:      []Sysctl{{"net/ipv4/ip_forward", "1"}, {"net/ipv6/conf/all/forwarding", "1"}},
		AddAddresses: []topology.Address{{Dev: "plainroute0", Prefix: netip.MustParsePrefix("10.244.1.1/24")}},
		Add:          []topology.Route{route("10.244.2.0/24"), route("10.244.3.0/24")},
		Replace:      []topology.Route{route("10.244.4.0/24")}, Delete: []topology.Route{route("10.244.5.0/24")},
		Widen: SetChange{AddNodes: []netip.Addr{netip.MustParseAddr("192.168.1.2")}}, CNI: &topology.CNI{},
	}
}

var alike = []cmp.Option{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, topology.Route{}, topology.Address{}, topology.Device{})}

// What is done is not to be done any more, and nothing else is lost.
func TestMinus(t *testing.T) {
	all, routes, rest := some(), some(), some()
	routes.Sysctls, routes.AddAddresses, routes.CNI, routes.AddBridge, routes.SetDevices = nil, nil, nil, nil, nil
	routes.Add = routes.Add[1:]
	rest.Replace, rest.Delete, rest.Widen = nil, nil, SetChange{}
	rest.Add = rest.Add[:1]
	if diff := cmp.Diff(rest, all.Minus(routes), alike...); diff != "" {
		t.Errorf("all but the routes (-want +got):\n%s", diff)
	}
	if left := all.Minus(all); !left.Empty() {
		t.Errorf("all less all is %+v", left)
	}
	if diff := cmp.Diff(all, all.Minus(Changes{}), alike...); diff != "" {
		t.Errorf("all less nothing (-want +got):\n%s", diff)
	}
}

func TestTally(t *testing.T) {
	all := some()
	want := Tally{Sysctls: 2, Devices: 3, Addresses: 1, Added: 2, Replaced: 1, Deleted: 1, Tables: 1, Configs: 1}
	if got := all.Tally(); got != want || got.Sum() != 12 || got.Routes() != 4 || len(all.Keys()) != 12 {
		t.Errorf("the tally is %+v, sum %d, and there are %d keys", got, got.Sum(), len(all.Keys()))
	}
	if got := all.Minus(all).Tally(); got != (Tally{}) {
		t.Errorf("the tally of nothing is %+v", got)
	}
}
