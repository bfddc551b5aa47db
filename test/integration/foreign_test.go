package integration

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// foreignRoutes are an administrator's static routes on a node, inside and outside the pod range. They are there
// before the agent first starts, and every test checks after itself that they are as they were.
type foreignRoutes struct {
	node   *nodelab.Node
	before []string
	watch  *netlab.RouteWatch
}

func addForeignRoutes(node *nodelab.Node) (*foreignRoutes, error) {
	for subnet, gateway := range map[string]netip.Addr{
		"10.244.99.0/24":      netlab.Router4,
		"10.244.128.0/17":     netlab.Router4,
		"172.30.0.0/16":       netlab.Router4,
		"fd00:10:244:99::/64": netlab.Router6,
		"fd00:172:30::/48":    netlab.Router6,
	} {
		if err := node.AddStaticRoute(netip.MustParsePrefix(subnet), gateway); err != nil {
			return nil, err
		}
	}
	before, err := node.ForeignRoutes()
	if err != nil {
		return nil, err
	}
	watch, err := node.WatchRoutes()
	return &foreignRoutes{node: node, before: before, watch: watch}, err
}

// check fails the test if a foreign route differs from before, or was away or changed for a moment.
func (f *foreignRoutes) check(t *testing.T) {
	after, err := f.node.ForeignRoutes()
	if err != nil {
		t.Error(err)
	}
	if !slices.Equal(f.before, after) {
		t.Errorf("foreign routes of %s before:\n%q\nand after:\n%q", f.node.Name, f.before, after)
	}
	for _, event := range f.watch.Drain() {
		if event.Protocol != netlab.Protocol && event.Protocol != kernelProtocol {
			t.Errorf("a foreign route of %s was touched: %+v", f.node.Name, event)
		}
	}
}

// kernelProtocol is RTPROT_KERNEL of linux/rtnetlink.h: routes that come and go with addresses.
const kernelProtocol = 2

// A foreign route to a peer's very subnet wins, since its metric is lower; ours stands by and takes over at once.
func TestForeignRouteToPeerSubnetWinsAndStays(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	peer := f.nodes[0]
	for i, subnet := range peer.Subnets {
		testutil.Must(t, node.AddStaticRoute(subnet, peer.Addrs()[i]))
	}
	before, err := node.ForeignRoutes()
	testutil.Must(t, err)

	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	testutil.Must(t, node.WaitReady(ctx))
	testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
	testutil.Must(t, node.StopAgent(syscall.SIGTERM))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	testutil.Must(t, node.WaitReady(ctx))

	after, err := node.ForeignRoutes()
	testutil.Must(t, err)
	if !slices.Equal(before, after) {
		t.Errorf("foreign routes before:\n%q\nand after:\n%q", before, after)
	}
	for _, subnet := range peer.Subnets {
		testutil.AwaitTrue(t, "/status reports the conflict over "+subnet.String(), func() bool {
			return hasProblem(t, node, peer.Name, "RouteConflict", subnet.String())
		})
	}
}
