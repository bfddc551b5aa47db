package integration

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// onFirstLAN gives a node of the second LAN a link to the first one with an address of one family, which becomes its
// InternalIP of that family.
func onFirstLAN(t *testing.T, f *fixture, node *nodelab.Node, is4 bool) {
	t.Helper()
	v4, v6, err := f.AddLink(node.Host, 0, "eth1", node.Index)
	testutil.Must(t, err)
	link, err := node.Handle().LinkByName("eth1")
	testutil.Must(t, err)
	family := netlink.FAMILY_V4
	if is4 {
		node.V4, family = v4, netlink.FAMILY_V6
	} else {
		node.V6 = v6
	}
	addrs, err := node.Handle().AddrList(link, family)
	testutil.Must(t, err)
	for _, addr := range addrs {
		if !addr.IP.IsLinkLocalUnicast() {
			testutil.Must(t, node.Handle().AddrDel(link, &addr))
		}
	}
}

// goesBy fails the test unless a node's routes to its peer lead into a tunnel in the families that have one, and nowhere
// else.
func goesBy(t *testing.T, node, peer *nodelab.Node, tunnel4, tunnel6 bool) {
	t.Helper()
	for _, subnet := range peer.Subnets {
		dev, err := node.RouteDevice(subnet)
		testutil.Must(t, err)
		want, name := tunnel6, topology.Tunnel6
		if subnet.Addr().Is4() {
			want, name = tunnel4, topology.Tunnel4
		}
		if (dev == name) != want {
			t.Errorf("%s's route to %s is by %q; by a tunnel: %t", node.Name, subnet, dev, want)
		}
	}
}

// Two nodes are on link with the two others in one family, and behind a router in the other one.
func TestFamiliesWithMixedReach(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	for name, is4 := range map[string]bool{"IPv4-on-link": true, "IPv6-on-link": false} {
		t.Run(name, func(t *testing.T) {
			nodes := machinesOnLANs(t, f)
			for _, node := range nodes[2:] {
				onFirstLAN(t, f, node, is4)
			}
			pods := join(ctx, t, nodes, "--encapsulation=cross-subnet")
			routed(ctx, t, nodes)
			reachPods(ctx, t, nodes, pods)
			for i, node := range nodes {
				for j, peer := range nodes {
					across := i/2 != j/2
					if i != j {
						goesBy(t, node, peer, across && !is4, across && is4)
					}
				}
			}
			for _, from := range pods {
				for _, node := range nodes {
					for _, address := range node.Addrs() {
						if _, err := from.Ping(ctx, address); err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
}

// Pods and Nodes have IPv6 alone, on two LANs.
func TestIPv6OnlyNodesBehindARouter(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	nodes := machinesOnLANs(t, f)
	for _, node := range nodes {
		node.V4, node.Subnets = netip.Addr{}, node.Subnets[1:]
	}
	pods := join(ctx, t, nodes, "--encapsulation=cross-subnet")
	routed(ctx, t, nodes)
	reachAll(ctx, t, nodes, pods)
	for i, node := range nodes {
		for j, peer := range nodes {
			if i != j {
				goesBy(t, node, peer, false, i/2 != j/2)
			}
		}
		if _, err := node.Handle().LinkByName(topology.Tunnel4); err == nil {
			t.Errorf("%s has a tunnel of IPv4", node.Name)
		}
	}
}
