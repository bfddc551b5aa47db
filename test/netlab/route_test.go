package netlab

import (
	"net/netip"
	"os/exec"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// testLAN is a LAN with one machine on it; there is one for all tests, since it is this process' own namespace.
func testLAN(t *testing.T, name string, index int) *Host {
	t.Helper()
	testutil.NeedSandbox(t)
	lan, err := Own()
	testutil.Must(t, err)
	if _, err := lan.link.LinkByName(lans[0].bridge); err != nil {
		lan, err = newLAN()
		testutil.Must(t, err)
	}
	machine, err := (&Topology{LAN: lan}).NewMachineOn(0, name, index)
	testutil.Must(t, err)
	return machine
}

// Where ip is missing its text is made from netlink: both have to be the same.
func TestRoutesReadLikeIP(t *testing.T) {
	machine := testLAN(t, "render", 1)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("nothing to compare with: ip is not installed")
	}
	own := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}
	peer := []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("fd00:10:244:2::/64")}
	for _, subnet := range slices.Concat(own, peer) {
		route := &netlink.Route{Dst: ipNet(subnet), Protocol: Protocol, Priority: 2048, Gw: Router6.AsSlice()}
		if subnet.Addr().Is4() {
			route.Gw, route.Src = Router4.AsSlice(), machine.V4.AsSlice()
		}
		if slices.Contains(own, subnet) {
			route.Gw, route.Src, route.Type, route.Priority = nil, nil, unix.RTN_UNREACHABLE, 4096
		}
		testutil.Must(t, machine.link.RouteAdd(route))
	}
	want, err := machine.Routes(t.Context())
	testutil.Must(t, err)
	got, err := machine.renderRoutes()
	testutil.Must(t, err)
	if got != want || want == "" {
		t.Errorf("rendered:\n%s\nip prints:\n%s", got, want)
	}
}

// A flow has to see loss, or a test that allows none of it proves nothing.
func TestFlowCountsLoss(t *testing.T) {
	machine := testLAN(t, "loss", 2)
	flow, err := machine.StartFlow(Router4)
	testutil.Must(t, err)
	run(t, flow)
	away := netip.PrefixFrom(Router4, 32)
	testutil.Must(t, machine.link.RouteAdd(&netlink.Route{Dst: ipNet(away), Type: unix.RTN_BLACKHOLE}))
	run(t, flow)
	count := flow.Stop()
	t.Log(count)
	if count.Received < 10 || count.Lost() < 10 || count.Fault == nil {
		t.Errorf("%s: want at least 10 received and 10 lost, and a fault", count)
	}
}

func run(t *testing.T, flow *Flow) {
	t.Helper()
	testutil.Must(t, flow.Run(t.Context(), 30))
}
