package links

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

const vrfTable = 10

// The InternalIPs are in a VRF, whose routes are in a table of their own. The operator leads packets from the main table into it
// and back, as docs/reach.md describes.
func TestVRF(t *testing.T) {
	ctx := testutil.Within(t, limit)
	f := setup(t)
	for _, node := range f.nodes {
		enslave(t, node)
		leak(t, node)
		node.V4, node.V6 = underAddresses(node) // no socket outside of the VRF can be bound to them
	}
	f.start(ctx, t)
	awaitDevice(t, f.nodes[0], f.nodes[1], storage)
	for _, node := range f.nodes {
		for _, subnet := range node.Subnets { // the bridge is there by now
			testutil.Must(t, node.Handle().RouteReplace(&netlink.Route{Dst: ipNet(subnet), LinkIndex: linkOf(t, node, "plainroute0").Attrs().Index, Table: vrfTable}))
		}
	}
	f.reachEachOther(ctx, t)
	f.again(ctx, t, "--encapsulation=always")
	awaitDevice(t, f.nodes[0], f.nodes[1], tunnels...)
	f.reachEachOther(ctx, t)
	f.again(ctx, t)
	awaitDevice(t, f.nodes[0], f.nodes[1], storage)
	for _, p := range networks(f.nodes[0], false) {
		testutil.Must(t, f.nodes[0].Handle().RouteDel(leaked(t, f.nodes[0], p)))
	}
	testutil.AwaitWithin(t, limit, 100*testutil.Interval, func() error {
		for _, p := range viewOf(ctx, t, f.nodes[0]).Peers {
			if !strings.Contains(p.Message, "in the VRF vrf0") {
				return fmt.Errorf("status says of %s: %q", p.Subnet, p.Message)
			}
		}
		return nil
	})
}

// enslave puts a node's storage link into a VRF, with the InternalIPs.
func enslave(t *testing.T, node *nodelab.Node) {
	t.Helper()
	vrf := add(t, node, &netlink.Vrf{LinkAttrs: attrs("vrf0", nil), Table: vrfTable})
	testutil.Must(t, node.Handle().LinkSetUp(vrf))
	link := linkOf(t, node, storage)
	for i, addr := range storageAddrs(node) {
		testutil.Must(t, node.Handle().AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, []int{24, 64}[i]))}))
	}
	testutil.Must(t, node.Handle().LinkSetMaster(link, vrf))
	address(t, node, storage, networks(node, false)...)
}

// leak adds routes to the nodes' networks to the main table, and has the node's sockets get packets of the VRF.
func leak(t *testing.T, node *nodelab.Node) {
	t.Helper()
	for _, p := range networks(node, false) {
		testutil.Must(t, node.Handle().RouteAdd(leaked(t, node, p)))
	}
	acceptVRF(t, node)
}

// acceptVRF has the node's sockets get packets of the VRF.
func acceptVRF(t *testing.T, node *nodelab.Node) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		testutil.Must(t, node.Sysctl("net/ipv4/"+protocol+"_l3mdev_accept", "1"))
	}
}

func leaked(t *testing.T, node *nodelab.Node, network netip.Prefix) *netlink.Route {
	t.Helper()
	return &netlink.Route{Dst: ipNet(network.Masked()), LinkIndex: linkOf(t, node, storage).Attrs().Index, Scope: netlink.SCOPE_LINK}
}
