package integration

import (
	"net"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// Hosts outside see a pod by its node's InternalIP, even if the uplink has addresses that the
// kernel would prefer for masquerading: an older one of the LAN in IPv4, a floating one in IPv6.
func TestPodReachesOutsideByTheInternalIP(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	prefix := func(address string) *net.IPNet {
		ip, p, err := net.ParseCIDR(address)
		testutil.Must(t, err)
		return &net.IPNet{IP: ip, Mask: p.Mask}
	}
	link, err := node.Handle().LinkByName("eth0")
	testutil.Must(t, err)
	internal, older := prefix(node.V4.String()+"/24"), prefix("192.168.1.250/24")
	testutil.Must(t, node.Handle().AddrDel(link, &rtnl.Addr{IPNet: internal}))
	testutil.Must(t, node.Handle().AddrAdd(link, &rtnl.Addr{IPNet: older}))
	testutil.Must(t, node.Handle().AddrAdd(link, &rtnl.Addr{IPNet: internal}))
	testutil.Must(t, node.Handle().RouteReplace(&rtnl.Route{Dst: prefix("0.0.0.0/0"), Gw: netlab.Router4.AsSlice(), LinkIndex: link.Attrs().Index}))
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	comesAlive(t, node)
	knownToAll(ctx, t, f, node)
	pod, err := node.AddPod(ctx, "a")
	testutil.Must(t, err)
	for _, address := range f.Outside.Addrs() {
		reaches(ctx, t, pod.Host, address, node.Addr(address))
	}

	testutil.Must(t, node.Handle().AddrAdd(link, &rtnl.Addr{IPNet: prefix("fd00:192:168:1::100/128"), Flags: unix.IFA_F_NODAD}))
	for sighting, err := pod.TCP(ctx, f.Outside.V6); sighting.Source != node.V6; sighting, err = pod.TCP(ctx, f.Outside.V6) {
		testutil.Must(t, err)
	}
	for _, address := range f.Outside.Addrs() {
		reaches(ctx, t, pod.Host, address, node.Addr(address))
	}
}
