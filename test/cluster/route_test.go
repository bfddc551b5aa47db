package cluster

import (
	"net/netip"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// testLAN is a LAN with one machine on it; there is one for all tests, since it is this process' own namespace.
func testLAN(t *testing.T, name string, index int) *Host {
	t.Helper()
	if skipReason != "" {
		t.Skip(skipReason)
	}
	lan, err := lanNamespace()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lan.link.LinkByName(lanBridge); err != nil {
		if lan, err = newLAN(); err != nil {
			t.Fatal(err)
		}
	}
	machine, err := newMachine(lan, name, hostOf(lan4, index), hostOf(lan6, index))
	if err != nil {
		t.Fatal(err)
	}
	return machine
}

// Where ip is missing its text is made from netlink: both have to be the same.
func TestRoutesReadLikeIP(t *testing.T) {
	machine := testLAN(t, "render", 1)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("nothing to compare with: ip is not installed")
	}
	for _, subnet := range append(podSubnets(1), podSubnets(2)...) {
		route := &netlink.Route{Dst: ipNet(subnet), Protocol: Protocol, Priority: 2048, Gw: Router6.AsSlice()}
		if subnet.Addr().Is4() {
			route.Gw, route.Src = Router4.AsSlice(), machine.V4.AsSlice()
		}
		if subnet == podSubnets(1)[0] || subnet == podSubnets(1)[1] {
			route.Gw, route.Src, route.Type, route.Priority = nil, nil, unix.RTN_UNREACHABLE, 4096
		}
		if err := machine.link.RouteAdd(route); err != nil {
			t.Fatal(err)
		}
	}
	want, err := machine.Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := machine.renderRoutes()
	if err != nil {
		t.Fatal(err)
	}
	if got != want || want == "" {
		t.Errorf("rendered:\n%s\nip prints:\n%s", got, want)
	}
}

// A flow has to see loss, or a test that wants none of it proves nothing.
func TestFlowCountsLoss(t *testing.T) {
	machine := testLAN(t, "loss", 2)
	flow, err := machine.StartFlow(Router4)
	if err != nil {
		t.Fatal(err)
	}
	run(t, flow)
	away := netip.PrefixFrom(Router4, 32)
	if err := machine.link.RouteAdd(&netlink.Route{Dst: ipNet(away), Type: unix.RTN_BLACKHOLE}); err != nil {
		t.Fatal(err)
	}
	run(t, flow)
	count := flow.Stop()
	t.Log(count)
	if count.Received < 10 || count.Lost() < 10 || count.Fault == nil {
		t.Errorf("%s: want at least 10 received and 10 lost, and a fault", count)
	}
}

func run(t *testing.T, flow *Flow) {
	t.Helper()
	if err := flow.Run(t.Context(), 30); err != nil {
		t.Fatal(err)
	}
}
