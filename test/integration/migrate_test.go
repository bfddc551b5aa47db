package integration

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

const (
	flannelBridge   = "cni0"
	flannelConflist = "10-flannel.conflist"
)

// flannel adds to a node the leftovers of flannel's host-gw mode: routes to its peers' subnets
// without a mark, at metric 0, and a config that attaches pods to cni0. Its plugin would only hand
// that on to the bridge plugin, so the config here names the bridge plugin itself.
func flannel(t *testing.T, node, peer *nodelab.Node) {
	t.Helper()
	for i, subnet := range peer.Subnets {
		gateway := peer.Addrs()[i]
		testutil.Must(t, node.Handle().RouteAdd(flannelRoute(subnet, gateway)))
	}
	flannelConfig(t, node, 0)
}

// flannelConfig writes flannel's CNI config, with an MTU or with the plugin's own choice of it.
func flannelConfig(t *testing.T, node *nodelab.Node, mtu int) {
	t.Helper()
	type settings = map[string]any
	var ranges []any
	for _, subnet := range node.Subnets {
		ranges = append(ranges, []any{settings{"subnet": subnet.String()}})
	}
	content, err := json.Marshal(settings{
		"name": "cbr0", "cniVersion": "1.0.0",
		"plugins": []any{
			settings{
				"type": "bridge", "bridge": flannelBridge, "isDefaultGateway": true, "hairpinMode": true, "mtu": mtu,
				"ipam": settings{"type": "host-local", "dataDir": t.TempDir(), "ranges": ranges},
			},
			settings{"type": "portmap", "capabilities": settings{"portMappings": true}},
		},
	})
	testutil.Must(t, err)
	testutil.Must(t, os.WriteFile(filepath.Join(node.ConfDir, flannelConflist), content, 0o600))
}

func flannelRoute(subnet netip.Prefix, gateway netip.Addr) *netlink.Route {
	return &netlink.Route{Dst: ipNet(subnet), Gw: gateway.AsSlice(), Protocol: unix.RTPROT_BOOT}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// The steps of docs/migrate-from-flannel.md: plainroute goes in beside flannel and touches nothing of it; then one node
// after the other is drained and handed over, while pods of both networks reach each other; flannel's routes go last,
// under traffic.
func TestMigrationFromFlannel(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	nodes := []*nodelab.Node{f.node(t), f.node(t)}
	pods := make([]*nodelab.Pod, len(nodes))
	for i, node := range nodes {
		flannel(t, node, nodes[1-i])
		testutil.Must(t, node.Register(ctx))
		testutil.Must(t, node.Sysctl("net/ipv4/ip_forward", "1"))
		testutil.Must(t, node.Sysctl("net/ipv6/conf/all/forwarding", "1"))
		var err error
		pods[i], err = node.AddPod(ctx, "flannel")
		testutil.Must(t, err)
	}
	meet(ctx, t, pods)

	flows := startFlows(t, pods)
	for i, node := range nodes {
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
		testutil.Must(t, node.AwaitRoute(ctx, nodes[1-i].Subnets...))
		waitNotReady(t, node, "CNIConflict", flannelConflist)
		testutil.Must(t, flows[0].Run(ctx, 20))
	}
	stopFlows(t, flows)

	for i, node := range nodes {
		testutil.Must(t, pods[i].Remove(ctx))
		testutil.Must(t, os.Remove(filepath.Join(node.ConfDir, flannelConflist)))
		removeLink(t, node, flannelBridge)
		testutil.Must(t, node.WaitReady(ctx))
		var err error
		pods[i], err = node.AddPod(ctx, "ours")
		testutil.Must(t, err)
		meet(ctx, t, pods)
	}

	flows = startFlows(t, pods)
	for i, node := range nodes {
		peer := nodes[1-i]
		for j, subnet := range peer.Subnets {
			testutil.AwaitTrue(t, node.Name+" reports flannel's route to "+subnet.String(), func() bool {
				return hasProblem(t, node, peer.Name, "RouteConflict", subnet.String())
			})
			testutil.Must(t, flows[0].Run(ctx, 10))
			testutil.Must(t, node.Handle().RouteDel(flannelRoute(subnet, peer.Addrs()[j])))
			testutil.Must(t, flows[0].Run(ctx, 10))
		}
		testutil.AwaitTrue(t, "no Problem is left on "+node.Name, func() bool { return !hasProblem(t, node, peer.Name, "RouteConflict", "") })
	}
	stopFlows(t, flows)
}

// meet checks that two pods see each other under their own addresses, both ways.
func meet(ctx context.Context, t *testing.T, pods []*nodelab.Pod) {
	t.Helper()
	reachesUnchanged(ctx, t, pods[0].Host, pods[1].Host)
	reachesUnchanged(ctx, t, pods[1].Host, pods[0].Host)
}

// startFlows pings from each pod to the other, over both families.
func startFlows(t *testing.T, pods []*nodelab.Pod) []*netlab.Flow {
	t.Helper()
	var flows []*netlab.Flow
	for i, from := range pods {
		for _, to := range pods[1-i].Addrs() {
			flow, err := from.StartFlow(to)
			testutil.Must(t, err)
			flows = append(flows, flow)
		}
	}
	return flows
}

func removeLink(t *testing.T, node *nodelab.Node, name string) {
	t.Helper()
	link, err := node.Handle().LinkByName(name)
	testutil.Must(t, err)
	testutil.Must(t, node.Handle().LinkDel(link))
}
