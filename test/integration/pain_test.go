package integration

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/google/nftables"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// Problems that users of other networks have; docs/pains.md lists them all, with the tests of each.

// "already has an IP address different from": a bridge that an earlier cluster left, with that one's gateway.
func TestBridgeOfAnEarlierCluster(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	bridge := &rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}}
	testutil.Must(t, node.Handle().LinkAdd(bridge))
	testutil.Must(t, node.Handle().LinkSetUp(bridge))
	address := netip.MustParsePrefix("10.99.7.1/24")
	testutil.Must(t, node.Handle().AddrAdd(bridge, &rtnl.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}}))
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	comesAlive(t, node)
	knownToAll(ctx, t, f, node)
	pod, err := node.AddPod(ctx, "a")
	testutil.Must(t, err)
	reachesUnchanged(ctx, t, pod.Host, f.pods[0].Host)
	reachesUnchanged(ctx, t, f.pods[0].Host, pod.Host)
}

// A held lock of iptables delays neither an agent's start nor its repairs: the agent never takes
// it.
func TestFirewallLockHeld(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	lock, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDWR, 0o600)
	testutil.Must(t, err)
	defer lock.Close()
	testutil.Must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	comesAlive(t, node)
	nft, err := node.NFT()
	testutil.Must(t, err)
	nft.DelTable(&nftables.Table{Name: topology.Table, Family: nftables.TableFamilyINet})
	testutil.Must(t, nft.Flush())
	testutil.AwaitTrue(t, "our table is back", func() bool {
		tables, err := nft.ListTablesOfFamily(nftables.TableFamilyINet)
		testutil.Must(t, err)
		return len(tables) == 1
	})
}
