package links

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// under is the device of the InternalIPs.
const under = "under0"

// underAddresses are a node's addresses on it.
func underAddresses(node *nodelab.Node) (v4, v6 netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 50, 0, byte(node.Index)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:50::%x", node.Index))
}

// add adds a device to a node. It skips the test if the kernel lacks its kind.
func add(t *testing.T, node *nodelab.Node, device netlink.Link) netlink.Link {
	t.Helper()
	err := node.Handle().LinkAdd(device)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("this kernel has no devices of the kind %s", device.Type())
	}
	testutil.Must(t, err)
	return linkOf(t, node, device.Attrs().Name)
}

func linkOf(t *testing.T, node *nodelab.Node, name string) netlink.Link {
	t.Helper()
	device, err := node.Handle().LinkByName(name)
	testutil.Must(t, err)
	return device
}

// attrs are those of a device, which is on another one.
func attrs(name string, parent netlink.Link) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	if parent != nil {
		a.ParentIndex = parent.Attrs().Index
	}
	return a
}

// address gives a device of a node addresses, and sets it up.
func address(t *testing.T, node *nodelab.Node, device string, all ...netip.Prefix) {
	t.Helper()
	link := linkOf(t, node, device)
	testutil.Must(t, node.Handle().LinkSetUp(link))
	for _, p := range all {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		testutil.Must(t, node.Handle().AddrReplace(link, addr))
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// networks are a node's addresses on its device with the networks of all nodes, or as single addresses.
func networks(node *nodelab.Node, single bool) []netip.Prefix {
	v4, v6 := underAddresses(node)
	if single {
		return []netip.Prefix{netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128)}
	}
	return []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)}
}

// lead adds a route on a node to each of another one's addresses: by a device, and by a gateway if there is one.
func lead(t *testing.T, node, peer *nodelab.Node, device string, gateways ...netip.Addr) {
	t.Helper()
	v4, v6 := underAddresses(peer)
	for i, addr := range []netip.Addr{v4, v6} {
		route := &netlink.Route{
			LinkIndex: linkOf(t, node, device).Attrs().Index, Protocol: unix.RTPROT_STATIC,
			Dst: ipNet(netip.PrefixFrom(addr, addr.BitLen())),
		}
		if len(gateways) > 0 {
			route.Gw = gateways[i].AsSlice()
		} else {
			route.Scope = unix.RT_SCOPE_LINK
		}
		testutil.Must(t, node.Handle().RouteReplace(route))
	}
}

// kinds are devices below which a LAN is, with the function that makes one.
var kinds = map[string]func(t *testing.T, node *nodelab.Node, lan netlink.Link){
	"macvlan": func(t *testing.T, node *nodelab.Node, lan netlink.Link) {
		add(t, node, &netlink.Macvlan{LinkAttrs: attrs(under, lan), Mode: netlink.MACVLAN_MODE_BRIDGE})
	},
	"vlan": func(t *testing.T, node *nodelab.Node, lan netlink.Link) {
		add(t, node, &netlink.Vlan{LinkAttrs: attrs(under, lan), VlanId: 50, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	},
	"bridge": func(t *testing.T, node *nodelab.Node, lan netlink.Link) {
		testutil.Must(t, node.Handle().LinkSetMaster(lan, add(t, node, &netlink.Bridge{LinkAttrs: attrs(under, nil)})))
	},
	"bond": func(t *testing.T, node *nodelab.Node, lan netlink.Link) { bond(t, node, lan) },
}

// bond adds a bond in which one link is active at a time.
func bond(t *testing.T, node *nodelab.Node, slaves ...netlink.Link) {
	t.Helper()
	device := netlink.NewLinkBond(attrs(under, nil))
	device.Mode, device.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 20
	master := add(t, node, device)
	for _, slave := range slaves {
		testutil.Must(t, node.Handle().LinkSetDown(slave))
		testutil.Must(t, node.Handle().LinkSetMaster(slave, master))
		testutil.Must(t, node.Handle().LinkSetUp(slave))
	}
}

// The InternalIPs are on a device of some kind, whose network is on link.
func TestKinds(t *testing.T) {
	for kind, build := range kinds {
		t.Run(kind, func(t *testing.T) {
			ctx := testutil.Within(t, limit)
			f := setup(t)
			for _, node := range f.nodes {
				build(t, node, linkOf(t, node, storage))
				address(t, node, under, networks(node, false)...)
			}
			f.on(t, underAddresses)
			f.start(ctx, t)
			awaitDevice(t, f.nodes[0], f.nodes[1], under)
			f.paths(ctx, t, map[netip.Prefix]string{
				f.nodes[1].Subnets[0]: "direct by 10.50.0.0/24 dev under0 proto 2 src " + f.nodes[0].V4.String(),
				f.nodes[1].Subnets[1]: "direct by fd00:10:50::/64 dev under0 proto 2 metric 256",
			})
			f.reachEachOther(ctx, t)
			f.again(ctx, t, "--encapsulation=always")
			awaitDevice(t, f.nodes[0], f.nodes[1], tunnels...)
			f.reachEachOther(ctx, t)
		})
	}
}
