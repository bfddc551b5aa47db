package links

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// twoLinks makes two nodes with an InternalIP of each family on each LAN, those of the storage network first.
func twoLinks(t *testing.T) *fixture {
	t.Helper()
	ctx := testutil.Within(t, limit)
	f := setup(t)
	f.start(ctx, t)
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
	f.explains(ctx, t, "is behind gateway")
	f.reachEachOther(ctx, t)
	for _, node := range f.nodes {
		addrs := storageAddrs(node)
		address(t, node, storage, netip.PrefixFrom(addrs[0], 24), netip.PrefixFrom(addrs[1], 64)) // as a network manager does
	}
	for i, node := range f.nodes {
		awaitDevice(t, node, f.nodes[1-i], storage)
	}
	testutil.Must(t, flows[0].Run(ctx, flowTime))
	stop(t, flows, 300) // the kernel checks the link's new IPv6 addresses, and asks for its neighbors, for a second or more
}

// explains waits until status of the first node shows why a peer's first InternalIP does not count.
func (f *fixture) explains(ctx context.Context, t *testing.T, words string) {
	t.Helper()
	testutil.AwaitWithin(t, limit, 100*testutil.Interval, func() error {
		for _, p := range viewOf(ctx, t, f.nodes[0]).Peers {
			if !strings.Contains(p.Before, words) {
				return fmt.Errorf("status shows %q for %s; want %q in it", p.Before, p.Subnet, words)
			}
		}
		return nil
	})
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
			if err := node.Handle().LinkSetName(link, name); errors.Is(err, unix.EBUSY) {
				t.Skip("before Linux 6.2 no link is renamed that is up")
			} else {
				testutil.Must(t, err)
			}
		}
		for i, node := range f.nodes {
			awaitDevice(t, node, f.nodes[1-i], name)
			testutil.AwaitWithin(t, limit, testutil.Interval, func() error { return shows(ctx, t, node, "dev "+name) })
		}
		testutil.Must(t, flows[0].Run(ctx, flowTime))
	}
	stop(t, flows, 20)
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
	f.explains(ctx, t, "is on eth1, which has no carrier")
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

// A cable of a bond is pulled: the bond takes the other one, and no route changes.
func TestBondLosesACable(t *testing.T) {
	const spare = "eth2"
	ctx := testutil.Within(t, limit)
	f := setup(t)
	for _, node := range f.nodes {
		_, _, err := f.AddLink(node.Host, 1, spare, 100+node.Index)
		testutil.Must(t, err)
		bond(t, node, linkOf(t, node, storage), linkOf(t, node, spare))
		address(t, node, under, networks(node, false)...)
	}
	f.on(t, underAddresses)
	f.start(ctx, t)
	awaitDevice(t, f.nodes[0], f.nodes[1], under)
	watch, err := f.nodes[0].WatchRoutes()
	testutil.Must(t, err)
	defer watch.Close()
	flows := f.flows(t)
	testutil.Must(t, f.LAN.Handle().LinkSetDown(f.portOf(t, f.nodes[0])))
	testutil.Must(t, flows[0].Run(ctx, 3*flowTime))
	stop(t, flows, 50)
	f.reachEachOther(ctx, t)
	if events := watch.Drain(); len(events) > 0 {
		t.Errorf("routes changed: %+v", events)
	}
}

// portOf is the other end of a node's cable to the second LAN.
func (f *fixture) portOf(t *testing.T, node *nodelab.Node) netlink.Link {
	t.Helper()
	port, err := f.LAN.Handle().LinkByName("to-" + node.Name + "-" + storage)
	testutil.Must(t, err)
	return port
}
