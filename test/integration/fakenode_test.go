package integration

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// fakeNode is a Node object that claims another's subnet or address, and the Reason with which the claim is refused.
type fakeNode struct {
	inject.FakeNode
	reason string
}

func fakeNodes() []fakeNode {
	many := make([]string, 20_000)
	for i := range many {
		many[i] = fmt.Sprintf("203.0.%d.%d", i/256, i%256)
	}
	good := []string{"192.168.1.201", "fd00:192:168:1::201"}
	claim := func(name, reason string, subnets ...string) fakeNode {
		return fakeNode{inject.FakeNode{Name: name, PodCIDRs: subnets, Addresses: good}, reason}
	}
	via := func(name, reason, subnet string, addresses ...string) fakeNode {
		return fakeNode{inject.FakeNode{Name: name, PodCIDRs: []string{subnet}, Addresses: addresses}, reason}
	}
	return []fakeNode{
		claim("claims-nothing", "PodCIDRMissing"),
		claim("claims-the-lan", "PodCIDRRefused", "192.168.1.0/24"),
		claim("claims-everything", "PodCIDRRefused", "0.0.0.0/0"),
		claim("claims-outside", "PodCIDRRefused", "10.99.0.0/24"),
		claim("claims-loopback", "PodCIDRRefused", "127.0.0.0/24"),
		claim("claims-link-local", "PodCIDRRefused", "169.254.1.0/24"),
		claim("claims-a-part-of-ours", "PodCIDRDisputed", "10.244.1.64/26"),
		claim("claims-a-part-of-node2s", "PodCIDRDisputed", "10.244.2.128/25"),
		claim("claims-a-part-of-node2s-v6", "PodCIDRDisputed", "fd00:10:244:2:8000::/65"),
		claim("claims-node2s-and-more", "PodCIDRDisputed", "10.244.2.0/23"),
		claim("claims-all-nodes", "PodCIDRDisputed", "10.244.0.0/20"),
		claim("claims-half-of-the-range", "PodCIDRRefused", "10.244.0.0/17"),
		claim("claims-all-of-the-range", "PodCIDRRefused", "10.244.0.0/16"),
		claim("claims-ours", "PodCIDRDisputed", "10.244.1.0/24"),
		claim("claims-node2s", "PodCIDRDisputed", "10.244.2.0/24"),
		claim("claims-node2s-v6", "PodCIDRDisputed", "fd00:10:244:2::/64"),
		via("has-no-address", "AddressMissing", "10.244.70.0/24"),
		via("has-a-name", "AddressMalformed", "10.244.71.0/24", "router.example"),
		via("has-a-zone", "AddressMalformed", "fd00:10:244:72::/64", "fe80::1%eth0"),
		via("has-a-group", "AddressMalformed", "10.244.73.0/24", "224.0.0.1"),
		via("has-our-address", "AddressRefused", "10.244.74.0/24", "192.168.1.11"),
		via("has-the-broadcast", "AddressRefused", "10.244.75.0/24", "192.168.1.255"),
		via("has-too-many", "OffLink", "10.244.76.0/24", many...),
	}
}

// Anyone who may write Nodes can claim anything: each of these Nodes harms itself alone.
func TestFakeNodesHarmNoOther(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	node := f.nodes[0]
	watch, err := node.WatchRoutes()
	testutil.Must(t, err)
	defer watch.Close()
	flows, logged := crossFlows(t, f), logSize(t, node)
	for _, fake := range fakeNodes() {
		testutil.Must(t, inject.CreateNodes(ctx, f.Client(), fake.FakeNode))
		t.Cleanup(func() { testutil.Must(t, inject.DeleteNodes(context.Background(), f.Client(), fake.FakeNode)) })
	}
	for _, fake := range fakeNodes() {
		isRefused(t, node, logged, fake)
	}
	testutil.Must(t, flows[0].Run(ctx, flowTime))
	stopFlows(t, flows)
	stays(t, watch)
	testutil.Must(t, node.WaitReady(ctx))
	for _, peer := range f.nodes[1:] {
		testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
	}
}

// isRefused waits until an agent reports the reason, and checks that its log, from an offset on,
// has it once.
func isRefused(t *testing.T, node *nodelab.Node, logged int64, fake fakeNode) {
	t.Helper()
	testutil.AwaitTrue(t, "/status of "+node.Name+" has "+fake.reason+" about "+fake.Name, func() bool {
		return hasProblem(t, node, fake.Name, fake.reason, "")
	})
	count := func() int {
		return countLog(t, node, logged, "msg=Problem ", "node="+fake.Name+" ", "reason="+fake.reason)
	}
	testutil.AwaitTrue(t, "the log has "+fake.reason+" about "+fake.Name, func() bool { return count() > 0 })
	hasMetric(t, node, fmt.Sprintf("plainroute_problems{own=\"false\",reason=%q}", fake.reason))
	if count := count(); count != 1 {
		t.Errorf("the log of %s has %s about %s %d times; want once", node.Name, fake.reason, fake.Name, count)
	}
}

// Two Nodes with one InternalIP: neither is refused for it, since one of them may be honest.
func TestSharedAddressKeepsRoutes(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node, honest := f.nodes[0], f.nodes[1]
	shared := inject.FakeNode{
		Name: "shares", PodCIDRs: []string{"10.244.80.0/24"}, Addresses: []string{honest.V4.String()},
	}
	flows := crossFlows(t, f)
	testutil.Must(t, inject.CreateNodes(ctx, f.Client(), shared))
	t.Cleanup(func() { testutil.Must(t, inject.DeleteNodes(context.Background(), f.Client(), shared)) })
	testutil.Must(t, node.AwaitRoute(ctx, netip.MustParsePrefix("10.244.80.0/24")))
	testutil.AwaitTrue(t, "/status has an AddressShared about one of the two that names the other", func() bool {
		return hasProblem(t, node, shared.Name, "AddressShared", honest.Name) ||
			hasProblem(t, node, honest.Name, "AddressShared", shared.Name)
	})
	testutil.Must(t, flows[0].Run(ctx, flowTime))
	stopFlows(t, flows)
}
