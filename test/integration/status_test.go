package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// statusOf runs plainroute status on a node.
func statusOf(ctx context.Context, t *testing.T, node *nodelab.Node, args ...string) nodelab.Command {
	t.Helper()
	cmd, err := node.Plainroute(ctx, append([]string{"status", "--run-dir", node.RunDir, "--cni-conf-dir", node.ConfDir}, args...)...)
	testutil.Must(t, err)
	return cmd
}

// viewOf is the JSON of plainroute status.
func viewOf(ctx context.Context, t *testing.T, node *nodelab.Node) (status.View, int) {
	t.Helper()
	cmd := statusOf(ctx, t, node, "-o", "json")
	var view status.View
	if err := json.Unmarshal([]byte(cmd.Stdout), &view); err != nil {
		t.Fatalf("%v in %s%s", err, cmd.Stdout, cmd.Stderr)
	}
	return view, cmd.Code
}

// shows asks until the answer is as it should be. One answer must have all of what changes from
// moment to moment.
func shows(ctx context.Context, t *testing.T, node *nodelab.Node, what string, is func(status.View, int) bool) status.View {
	t.Helper()
	var view status.View
	testutil.Must(t, testutil.Poll(ctx, 100*time.Millisecond, func() error {
		var code int
		if view, code = viewOf(ctx, t, node); !is(view, code) {
			return fmt.Errorf("%s: still exit code %d and %+v", what, code, view)
		}
		return nil
	}))
	return view
}

func peerTo(v status.View, subnet netip.Prefix) status.Peer {
	for _, p := range v.Peers {
		if p.Subnet == subnet {
			return p
		}
	}
	return status.Peer{}
}

// Another program deletes a route as fast as it comes back, and the API server is away: status on
// the node shows which one is missing at this moment, and that the rest is fine; and afterwards,
// when it was last repaired.
func TestStatusSeesAMissingRoute(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	gate, err := f.gate(node)
	testutil.Must(t, err)
	testutil.Must(t, gate.Open())
	t.Cleanup(gate.Shut)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Kubeconfig: gate.Kubeconfig(), Confined: true}))
	testutil.Must(t, node.WaitReady(ctx))
	testutil.Must(t, node.AwaitRoute(ctx, subnetsOf(f.nodes...)...))
	shows(ctx, t, node, "all is well", func(v status.View, code int) bool { return code == 0 && v.OK() && len(v.Peers) >= 6 })
	gate.Shut()
	shows(ctx, t, node, "the API server is away", func(v status.View, code int) bool { return code == 1 && v.API.Error != "" && v.Ready })

	subnet := f.nodes[1].Subnets[0]
	stop := undo(node, subnet)
	// It takes some repairs until it counts as a flap: before, the route is there at one look and away at the next.
	lost := shows(ctx, t, node, "the flap", func(v status.View, code int) bool {
		flap := func(p problem.Problem) bool { return p.Reason == problem.Contested && p.Node == f.nodes[1].Name }
		return code == 1 && peerTo(v, subnet).State == status.Missing && slices.ContainsFunc(v.Problems, flap)
	})
	if d := lost.Drift.Differences; len(d) != 1 || d[0].Subnet != subnet || d[0].Reason != problem.Missing || !strings.HasPrefix(d[0].Message, "route "+subnet.String()+" via ") {
		t.Errorf("the differences are %+v", d)
	}
	for _, p := range lost.Peers {
		if p.Subnet != subnet && p.State != status.OK {
			t.Errorf("another peer suffers: %+v", p)
		}
	}
	if text := statusOf(ctx, t, node, "--problems").Stdout; !strings.Contains(text, "Contested") {
		t.Errorf("for eyes it is\n%s", text)
	}
	stop()
	shows(ctx, t, node, "it is over", func(v status.View, _ int) bool {
		p := peerTo(v, subnet)
		return p.State == status.OK && !p.Repaired.IsZero() && peerTo(v, f.nodes[2].Subnets[0]).Repaired.IsZero()
	})
}

// undo deletes a route again and again, until the function that it returns is called.
func undo(node *nodelab.Node, subnet netip.Prefix) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_ = node.DeleteRoute(subnet) // which is not always there
			select {
			case <-end:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// Without an agent status shows what the kernel and the CNI folder contain, and what they lack.
func TestStatusWithoutAgent(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--bridge", "pods0"}}))
	testutil.Must(t, node.WaitReady(ctx))
	testutil.Must(t, node.AwaitRoute(ctx, subnetsOf(f.nodes...)...))
	testutil.Must(t, node.PauseAgent())
	if cmd := statusOf(ctx, t, node, "--timeout", "300ms"); cmd.Code != 1 || !strings.Contains(cmd.Stdout, "An agent runs on this node") {
		t.Errorf("of an agent that hangs it prints %d %s", cmd.Code, cmd.Stdout)
	}
	testutil.Must(t, node.SignalAgent(syscall.SIGCONT))
	testutil.Must(t, node.StopAgent(syscall.SIGKILL))
	gone, there := f.nodes[1].Subnets[0], f.nodes[2].Subnets[0]
	testutil.Must(t, node.DeleteRoute(gone))
	cmd := statusOf(ctx, t, node)
	for _, want := range []string{
		"The agent does not answer: ", "No agent runs on this node", "subnets     " + node.Subnets[0].String(), "table       inet plainroute",
		"10-plainroute.conflist: subnets ", "bridge pods0", "\n" + there.String() + " ",
	} {
		if !strings.Contains(cmd.Stdout, want) {
			t.Errorf("there is no %q", want)
		}
	}
	if cmd.Code != 1 || strings.Contains(cmd.Stdout, gone.String()) {
		t.Errorf("exit code %d, and it shows\n%s%s", cmd.Code, cmd.Stdout, cmd.Stderr)
	}
}
