package integration

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// unreached runs the checks of doctor that depend on how peers are reached. It fails the test if they find anything but
// peers to whose pods no packets by a tunnel arrive, and returns these.
func unreached(ctx context.Context, t *testing.T, node *nodelab.Node) []string {
	t.Helper()
	result, err := node.Plainroute(ctx, "doctor", "--check",
		"forwarding,rp-filter,forward-policy,foreign-routes,policy-rules,neighbors,mac-addresses,path-mtu,pod-packets")
	testutil.Must(t, err)
	_, names, found := strings.Cut(result.Stdout, "packets to their pods by the tunnel do not arrive there, or the answers are lost: ")
	summary := " 0 errors, 0 warnings,"
	if found {
		summary = " 0 errors, 1 warning,"
	}
	if !strings.Contains(result.Stdout, summary) {
		t.Errorf("doctor on %s:\n%s%s", node.Name, result.Stdout, result.Stderr)
	}
	names, _, _ = strings.Cut(names, "\n")
	return strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
}

// Doctor finds nothing wrong with peers behind tunnels. It finds those that have no tunnels, as the nodes of all tests, and
// one whose tunnels have another identifier.
func TestDoctorOfTunnels(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	const setting = "--encapsulation=cross-subnet"
	nodes, _ := nodesOnLANs(ctx, t, f, setting)
	routed(ctx, t, nodes)
	near, far := nodes[0], nodes[2]
	if found := unreached(ctx, t, near); len(found) > 0 {
		t.Errorf("%s does not reach %q", near.Name, found)
	}
	var without []string
	for _, node := range f.nodes {
		without = append(without, node.Name)
	}
	if found := unreached(ctx, t, far); !slices.Equal(found, without) {
		t.Errorf("%s does not reach %q; want %q", far.Name, found, without)
	}
	testutil.Must(t, far.StopAgent(syscall.SIGTERM))
	testutil.Must(t, far.StartAgent(nodelab.AgentOptions{Args: []string{setting, "--vxlan-id=7"}}))
	testutil.Must(t, far.WaitReady(ctx))
	if found := unreached(ctx, t, near); !slices.Equal(found, []string{far.Name}) {
		t.Errorf("%s has tunnels of another identifier, and %s does not reach %q", far.Name, near.Name, found)
	}
}
