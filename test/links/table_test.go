package links

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// podTable has no place in the header of a route's message, which has 8 bits for it.
const podTable = 1000

// TestTable moves the routes to a table of their own and back, under traffic. They leave main once a rule leads to the new table.
func TestTable(t *testing.T) {
	ctx := testutil.Within(t, limit)
	f := setup(t)
	f.start(ctx, t)
	flows := f.flows(t)
	f.restart(t, "--table", fmt.Sprint(podTable))
	for _, node := range f.nodes {
		testutil.Must(t, node.WaitReadyz(ctx, func(code int, body string) bool {
			return code != http.StatusOK && strings.Contains(body, "no policy rule leads IPv4 packets to table 1000")
		}))
		awaitOurs(t, node, podTable, 6)
		awaitOurs(t, node, unix.RT_TABLE_MAIN, 4)
	}
	for _, node := range f.nodes {
		ruleTo(t, node, podTable, nodelab.PodRange4, nodelab.PodRange6)
	}
	for _, node := range f.nodes {
		testutil.Must(t, node.WaitReady(ctx))
		awaitOurs(t, node, podTable, 6)
		awaitOurs(t, node, unix.RT_TABLE_MAIN, 0)
	}
	f.reachEachOther(ctx, t)
	stop(t, flows, 0)
	healthy(ctx, t, f.nodes[0])

	testutil.Must(t, f.nodes[0].Handle().RouteDel(ours(t, f.nodes[0], podTable)[0]))
	awaitOurs(t, f.nodes[0], podTable, 6)
	testutil.Must(t, f.nodes[0].Handle().LinkSetDown(linkOf(t, f.nodes[0], topology.Bridge)))
	awaitOurs(t, f.nodes[0], podTable, 6)
	f.reachEachOther(ctx, t)

	cleans(ctx, t, f.nodes[1])
	testutil.Must(t, f.nodes[1].StartAgent(nodelab.AgentOptions{Args: []string{"--table", fmt.Sprint(podTable)}}))
	testutil.Must(t, f.nodes[1].WaitReady(ctx))

	flows = f.flows(t)
	f.again(ctx, t)
	for _, node := range f.nodes {
		awaitOurs(t, node, unix.RT_TABLE_MAIN, 4)
		awaitOurs(t, node, podTable, 0)
	}
	f.reachEachOther(ctx, t)
	stop(t, flows, 0)
}

// TestTableOfAVRF has the InternalIPs in a VRF, and our routes in its table. One rule for each range leads packets from the main
// table there; the bridge stays outside.
func TestTableOfAVRF(t *testing.T) {
	ctx := testutil.Within(t, limit)
	f := setup(t)
	for _, node := range f.nodes {
		enslave(t, node)
		ruleTo(t, node, vrfTable, slices.Concat([]netip.Prefix{nodelab.PodRange4, nodelab.PodRange6}, networks(node, false))...)
		acceptVRF(t, node)
		node.V4, node.V6 = underAddresses(node) // no socket outside of the VRF can be bound to them
	}
	f.start(ctx, t, "--table", fmt.Sprint(vrfTable))
	awaitDevice(t, f.nodes[0], f.nodes[1], storage)
	for _, node := range f.nodes {
		awaitOurs(t, node, vrfTable, 6)
	}
	f.reachEachOther(ctx, t)
	healthy(ctx, t, f.nodes[0])
	f.again(ctx, t, "--table", fmt.Sprint(vrfTable), "--encapsulation=always")
	awaitDevice(t, f.nodes[0], f.nodes[1], tunnels...)
	f.reachEachOther(ctx, t)
}

// healthy fails the test if doctor finds that rules or other routes keep packets from our routes.
func healthy(ctx context.Context, t *testing.T, node *nodelab.Node) {
	t.Helper()
	cmd, err := node.Plainroute(ctx, "doctor", "--node-name", node.Name, "--run-dir", node.RunDir, "--cni-conf-dir", node.ConfDir, "--check", "agent,foreign-routes,policy-rules,rp-filter,forwarding")
	testutil.Must(t, err)
	if cmd.Code != 0 {
		t.Errorf("doctor on %s: %s%s", node.Name, cmd.Stdout, cmd.Stderr)
	}
}

// restart starts the agents again, with other arguments, and does not wait.
func (f *fixture) restart(t *testing.T, args ...string) {
	t.Helper()
	for _, node := range f.nodes {
		testutil.Must(t, node.StopAgent(unix.SIGTERM))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: args}))
	}
}

// ruleTo adds a rule for each range that leads to a table before main.
func ruleTo(t *testing.T, node *nodelab.Node, table int, ranges ...netip.Prefix) {
	t.Helper()
	for i, p := range ranges {
		rule := netlink.NewRule()
		rule.Table, rule.Priority, rule.Family, rule.Dst = table, 2000+i, unix.AF_INET, ipNet(p.Masked())
		if p.Addr().Is6() {
			rule.Family = unix.AF_INET6
		}
		testutil.Must(t, node.Handle().RuleAdd(rule))
	}
}

// ours are the routes in a table of a node that have our mark.
func ours(t *testing.T, node *nodelab.Node, table int) (all []*netlink.Route) {
	t.Helper()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := node.Handle().RouteListFiltered(family, &netlink.Route{Table: table, Protocol: topology.Protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		testutil.Must(t, err)
		for i := range routes {
			all = append(all, &routes[i])
		}
	}
	return all
}

// awaitOurs waits until a table has that many routes of ours.
func awaitOurs(t *testing.T, node *nodelab.Node, table, want int) {
	t.Helper()
	testutil.AwaitWithin(t, limit, testutil.Interval, func() error {
		if all := ours(t, node, table); len(all) != want {
			return fmt.Errorf("%s has %d routes of ours in table %d, want %d: %v", node.Name, len(all), table, want, all)
		}
		return nil
	})
}

// cleans removes what is left of a node, of all tables.
func cleans(ctx context.Context, t *testing.T, node *nodelab.Node) {
	t.Helper()
	testutil.Must(t, node.StopAgent(unix.SIGTERM))
	cmd, err := node.Cleanup(ctx, "--force")
	testutil.Must(t, err)
	if cmd.Code != 0 || !strings.Contains(cmd.Stdout, "table 1000") {
		t.Errorf("cleanup ends with %d: %s%s", cmd.Code, cmd.Stdout, cmd.Stderr)
	}
	awaitOurs(t, node, podTable, 0)
}
