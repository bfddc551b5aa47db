package dataplane

import (
	"context"
	"net"
	"slices"
	"testing"

	rtnl "github.com/vishvananda/netlink"
)

// Each next hop of a foreign multipath route is a gateway that no pod subnet may hide.
func TestAllNextHopsOfAForeignRouteAreKnown(t *testing.T) {
	m := newMachine(t)
	_, everything, _ := net.ParseCIDR("172.31.0.0/16")
	hop := func(gateway string) *rtnl.NexthopInfo {
		return &rtnl.NexthopInfo{LinkIndex: m.eth0.Attrs().Index, Gw: net.ParseIP(gateway)}
	}
	m.must(m.nl.RouteAdd(&rtnl.Route{Dst: everything, MultiPath: []*rtnl.NexthopInfo{hop("192.168.1.71"), hop("192.168.1.72")}, Protocol: 4}))
	host, err := m.Facts(context.Background(), nil)
	m.must(err)
	var gateways []string
	for _, r := range host.Routes {
		if r.Dst.String() == everything.String() && r.Protocol == 4 && r.Dev == "eth0" {
			gateways = append(gateways, r.Via.String())
		}
	}
	slices.Sort(gateways)
	if !slices.Equal(gateways, []string{"192.168.1.71", "192.168.1.72"}) {
		t.Errorf("gateways are %v", gateways)
	}
}
