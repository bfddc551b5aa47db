package links

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// twoLinks makes two nodes with an InternalIP of each family on each LAN, those of the storage network first.
func twoLinks(t *testing.T, args ...string) *fixture {
	t.Helper()
	ctx := testutil.Within(t, limit)
	f := setup(t, 2)
	f.start(ctx, t, args...)
	for _, node := range f.nodes {
		testutil.Must(t, node.SetAddresses(ctx, append(storageAddrs(node), node.Addrs()...)...))
	}
	for i, node := range f.nodes {
		awaitDevice(t, node, f.nodes[1-i], storage)
	}
	return f
}

// The route takes the first of the Node's InternalIPs that is on link, and another one while that one's link is down.
func TestLinkGoesAndComesBack(t *testing.T) {
	f := twoLinks(t)
	ctx := testutil.Within(t, limit)
	f.paths(ctx, t, map[netip.Prefix]string{
		f.nodes[1].Subnets[0]: "direct by 192.168.2.0/24 dev eth1 proto 2 src " + storageAddrs(f.nodes[0])[0].String(),
		f.nodes[1].Subnets[1]: "direct by fd00:192:168:2::/64 dev eth1 proto 2 metric 256",
	})
	flows := f.flows(t)
	for _, node := range f.nodes {
		testutil.Must(t, node.Handle().LinkSetDown(linkOf(t, node, storage)))
	}
	for i, node := range f.nodes {
		awaitDevice(t, node, f.nodes[1-i], netlab.Uplink)
	}
	f.reachEachOther(ctx, t)
	for _, node := range f.nodes {
		addrs := storageAddrs(node)
		address(t, node, storage, netip.PrefixFrom(addrs[0], 24), netip.PrefixFrom(addrs[1], 64)) // as a network manager does
	}
	for i, node := range f.nodes {
		awaitDevice(t, node, f.nodes[1-i], storage)
	}
	testutil.Must(t, flows[0].Run(ctx, flowTime))
	stop(t, flows, 20)
}

// A link is renamed under traffic: the kernel keeps its routes, and so does the agent.
func TestLinkIsRenamed(t *testing.T) {
	f := twoLinks(t)
	ctx := testutil.Within(t, limit)
	flows := f.flows(t)
	for _, name := range []string{"storage0", storage} {
		for _, node := range f.nodes {
			link, err := node.Handle().LinkByName(map[string]string{"storage0": storage, storage: "storage0"}[name])
			testutil.Must(t, err)
			testutil.Must(t, node.Handle().LinkSetName(link, name))
		}
		for i, node := range f.nodes {
			awaitDevice(t, node, f.nodes[1-i], name)
			testutil.AwaitWithin(t, limit, testutil.Interval, func() error { return shows(ctx, t, node, "dev "+name) })
		}
		testutil.Must(t, flows[0].Run(ctx, flowTime))
	}
	stop(t, flows, 0)
}

// The storage network's switch loses power: no link of it has a carrier.
func TestLinkLosesItsCarrier(t *testing.T) {
	f := twoLinks(t)
	ctx := testutil.Within(t, limit)
	flows := f.flows(t)
	for _, node := range f.nodes {
		testutil.Must(t, f.LAN.Handle().LinkSetDown(f.portOf(t, node)))
	}
	for i, node := range f.nodes {
		awaitDevice(t, node, f.nodes[1-i], netlab.Uplink)
	}
	f.reachEachOther(ctx, t)
	for _, node := range f.nodes {
		testutil.Must(t, f.LAN.Handle().LinkSetUp(f.portOf(t, node)))
	}
	for i, node := range f.nodes {
		awaitDevice(t, node, f.nodes[1-i], storage)
	}
	testutil.Must(t, flows[0].Run(ctx, flowTime))
	stop(t, flows, 200)
}

// portOf is the other end of a node's cable to the second LAN.
func (f *fixture) portOf(t *testing.T, node *nodelab.Node) netlink.Link {
	t.Helper()
	port, err := f.LAN.Handle().LinkByName("to-" + node.Name + "-" + storage)
	testutil.Must(t, err)
	return port
}
