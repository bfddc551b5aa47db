package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// sized makes a node for one test whose pod subnets are these.
func (f *fixture) sized(t *testing.T, subnets ...string) *nodelab.Node {
	t.Helper()
	node := f.node(t)
	node.Subnets = node.Subnets[:0]
	for _, subnet := range subnets {
		node.Subnets = append(node.Subnets, netip.MustParsePrefix(subnet))
	}
	return node
}

// Node pools of several sizes get pod subnets of mixed length (perNodeHostBits of node-ipam-controller): all pods reach
// each other without NAT, and the world with their node's address. One of the small nodes has the range of lengths from
// its operator and no --cluster-cidr, so its nftables sets have an element a subnet.
func TestNodePoolsOfTwoSizes(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	small := []*nodelab.Node{
		f.sized(t, "10.244.240.0/26", "fd00:10:244:f000::/72"), f.sized(t, "10.244.240.64/27", "fd00:10:244:f000:100::/72"),
	}
	options := []nodelab.AgentOptions{{}, {
		WithoutClusterCIDR: true, Args: []string{"--node-cidr-mask-size-ipv4", "24-28", "--node-cidr-mask-size-ipv6", "64-80"},
	}}
	var pods []*nodelab.Pod
	for i, node := range small {
		testutil.Must(t, node.Register(ctx))
		testutil.Must(t, node.StartAgent(options[i]))
		testutil.Must(t, node.WaitReady(ctx))
		pod, err := node.AddPod(ctx, "a")
		testutil.Must(t, err)
		pods = append(pods, pod)
	}
	knownToAll(ctx, t, f, small...)
	for _, pod := range pods {
		for _, other := range append([]*nodelab.Pod{f.pods[0], f.pods[2]}, pods...) {
			if other != pod {
				reachesUnchanged(ctx, t, pod.Host, other.Host)
				reachesUnchanged(ctx, t, other.Host, pod.Host)
			}
		}
		for _, address := range f.Outside.Addrs() {
			reaches(ctx, t, pod.Host, address, pod.Node.Addr(address))
		}
	}
	refusesUnknownPods(ctx, t, f.pods[0], small[0])
}

// A cluster is resized live, from /24 to /21 (rke2 #11170): node by node is drained, deleted, and joins again with a
// larger subnet. Flows between pods of the other nodes, of either length, lose nothing; pods of the resized ones reach all
// others and are reached; and no former gateway is left on a bridge.
func TestLiveResize(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 3*limit)
	nodes := []*nodelab.Node{f.node(t), f.node(t)}
	pods := make([]*nodelab.Pod, len(nodes))
	for i, node := range nodes {
		testutil.Must(t, node.Register(ctx))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
		testutil.Must(t, node.WaitReady(ctx))
		pods[i] = addPod(ctx, t, node, "small")
	}
	knownToAll(ctx, t, f, nodes...)
	bystanders := crossFlows(t, f)
	for i, node := range nodes {
		other := pods[1-i]
		flows := flowsBothWays(t, f.pods[0], other)
		testutil.Must(t, pods[i].Remove(ctx))
		resize(ctx, t, f, node, fmt.Sprintf("10.244.%d.0/21", 208+8*i), fmt.Sprintf("fd00:10:244:e00%d::/61", 8*i))
		pods[i] = addPod(ctx, t, node, "large")
		knownToAll(ctx, t, f, nodes...)
		for _, peer := range []*nodelab.Pod{f.pods[0], f.pods[2], other} {
			reachesUnchanged(ctx, t, pods[i].Host, peer.Host)
			reachesUnchanged(ctx, t, peer.Host, pods[i].Host)
		}
		testutil.Must(t, flows[0].Run(ctx, flowTime))
		stopFlows(t, flows)
	}
	stopFlows(t, bystanders)
}

func addPod(ctx context.Context, t *testing.T, node *nodelab.Node, name string) *nodelab.Pod {
	t.Helper()
	pod, err := node.AddPod(ctx, name)
	testutil.Must(t, err)
	return pod
}

func flowsBothWays(t *testing.T, a, b *nodelab.Pod) []*netlab.Flow {
	t.Helper()
	var flows []*netlab.Flow
	for _, pair := range [][2]*nodelab.Pod{{a, b}, {b, a}} {
		for _, address := range pair[1].Addrs() {
			flow, err := pair[0].StartFlow(address)
			testutil.Must(t, err)
			flows = append(flows, flow)
		}
	}
	return flows
}

// resize deletes a drained node and has it join again with other subnets, and waits until its CNI config and its bridge
// have those alone, and until the others route to them and no longer to the former ones.
func resize(ctx context.Context, t *testing.T, f *fixture, node *nodelab.Node, subnets ...string) {
	t.Helper()
	former := node.Subnets
	testutil.Must(t, node.Deregister(ctx))
	node.Subnets = nil
	for _, subnet := range subnets {
		node.Subnets = append(node.Subnets, netip.MustParsePrefix(subnet))
	}
	testutil.Must(t, node.Register(ctx))
	testutil.AwaitTrue(t, node.Name+"'s CNI config has the new subnets", func() bool {
		list, err := node.CNIConfig()
		return err == nil && bytes.Contains(list.Bytes, []byte(subnets[0])) && bytes.Contains(list.Bytes, []byte(subnets[1]))
	})
	var want []string
	for _, subnet := range node.Subnets {
		want = append(want, netip.PrefixFrom(topology.Gateway(subnet), subnet.Bits()).String())
	}
	testutil.AwaitTrue(t, node.Name+"'s bridge has the new gateways alone", func() bool { return slices.Equal(gateways(t, node), want) })
	for _, peer := range f.nodes {
		testutil.Must(t, peer.AwaitRoute(ctx, node.Subnets...))
		testutil.Must(t, peer.AwaitNoRoute(ctx, former...))
	}
}

// gateways lists the addresses of a node's bridge, IPv4 first, but for the link-local one.
func gateways(t *testing.T, node *nodelab.Node) []string {
	t.Helper()
	bridge, err := node.Handle().LinkByName(topology.Bridge)
	testutil.Must(t, err)
	addrs, err := node.Handle().AddrList(bridge, netlink.FAMILY_ALL)
	testutil.Must(t, err)
	var all []string
	for _, addr := range addrs {
		if !addr.IP.IsLinkLocalUnicast() {
			all = append(all, addr.IPNet.String())
		}
	}
	return all
}
