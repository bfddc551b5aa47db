package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// At most Parallel agents are queried at a time, and Progress is called.
func TestEachIsBounded(t *testing.T) {
	var now, most atomic.Int32
	last := -1
	s := &Collector{Parallel: 3, Timeout: time.Minute, Progress: func(done, all int) {
		if all != 30 || done < last {
			t.Errorf("progress is %d of %d after %d", done, all, last)
		}
		last = done
	}}
	err := s.each(t.Context(), make([]*Row, 30), func(context.Context, *Row) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		time.Sleep(30 * time.Millisecond)
		now.Add(-1)
	})
	if err != nil || most.Load() != 3 || last < 1 {
		t.Errorf("got %v, %d at a time, want 3; progress was %d last", err, most.Load(), last)
	}
}

// A call that ignores its context doesn't delay the end.
func TestEachEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hang := make(chan struct{})
	defer close(hang)
	start := time.Now()
	err := (&Collector{Parallel: 1, Timeout: time.Minute}).each(ctx, make([]*Row, 2), func(context.Context, *Row) {
		cancel()
		<-hang
	})
	if took := time.Since(start); !errors.Is(err, context.Canceled) || took > 30*time.Second {
		t.Errorf("got %v after %s, want that it was cancelled at once", err, took)
	}
}

// Pods must not send packets that another Node's link drops silently. Smaller packets than the
// links take are fine.
func TestOversize(t *testing.T) {
	w := newWorld(4)
	w.reports["node-1"].Host.MTU = 1400
	if c := w.collect(t); !c.OK() {
		t.Errorf("with pods smaller than all links: %v", c.Problems)
	}
	w = newWorld(4)
	w.reports["node-2"].Host.MTU, w.reports["node-2"].Host.Uplinks[0].MTU = 1400, 1400 // as an agent follows its link
	c := w.collect(t)
	if len(c.Problems) != 1 || c.Problems[0].Message != "pods of node-1, node-3 and node-4 send packets of up to 1500 bytes, and node-2 can take but 1400: connections there open, and hang when data flows" {
		t.Errorf("got %v", c.Problems)
	}
	// Tunnels add 50 bytes, and never exceed their own Node's link.
	for encapsulation, problems := range map[topology.Encapsulation]int{topology.EncapsulateNever: 0, topology.EncapsulateCrossSubnet: 1, topology.EncapsulateAlways: 1} {
		w = newWorld(4)
		for i := range 4 {
			w.reports[name(i)].Host.Encapsulation, w.reports[name(i)].Host.MTU = encapsulation, 1450
		}
		if c := w.collect(t); len(c.Problems) != 0 {
			t.Errorf("with tunnels on equal links: %v", c.Problems)
		}
		w.reports["node-2"].Host.MTU = 1500
		if c := w.collect(t); len(c.Problems) != 0 {
			t.Errorf("with a larger --mtu: %v", c.Problems)
		}
		w.reports["node-2"].Host.MTU, w.reports["node-2"].Host.Uplinks[0].MTU = 1450, 1460
		if c := w.collect(t); len(c.Problems) != problems {
			t.Errorf("with encapsulation %s, and one link that takes less: %v", encapsulation, c.Problems)
		}
	}
}

// Tunnels of another port or VNI lose packets; different settings of --encapsulation don't, while nodes change from one to the other.
func TestTunnelMismatch(t *testing.T) {
	tunneling := func() *world {
		w := newWorld(4)
		for i := range 4 {
			r := w.reports[name(i)]
			r.Host.Encapsulation, r.Host.MTU = topology.EncapsulateAlways, 1450
			r.State.Tunnels = []topology.Tunnel{{Name: topology.Tunnel4, Port: 4789, VNI: 112}}
			for p := range r.Peers {
				r.Peers[p].Path = topology.PathTunnel
			}
		}
		return w
	}
	if c := tunneling().collect(t); len(c.Problems) != 0 {
		t.Errorf("with tunnels that are all alike: %v", c.Problems)
	}
	const mismatch = "packets in tunnels between these nodes are lost, because the tunnels differ: UDP port 4789 and VNI 112 on node-1, node-3 and node-4, "
	for want, change := range map[string]func(*status.Report){
		mismatch + "UDP port 8472 and VNI 112 on node-2": func(r *status.Report) { r.State.Tunnels[0].Port = 8472 },
		mismatch + "UDP port 4789 and VNI 7 on node-2":   func(r *status.Report) { r.State.Tunnels[0].VNI = 7 },
		"nodes have different settings of --encapsulation: always on node-1, node-3 and node-4, cross-subnet on node-2": func(r *status.Report) {
			r.Host.Encapsulation = topology.EncapsulateCrossSubnet
		},
	} {
		w := tunneling()
		change(w.reports["node-2"])
		c := w.collect(t)
		if len(c.Problems) != 1 || c.Problems[0].Message != want || (c.Problems[0].Severity == problem.Info) == strings.Contains(want, "lost") {
			t.Errorf("want %q: %v", want, c.Problems)
		}
	}
	w := tunneling()
	w.reports["node-2"].State.Tunnels[0].Port = 8472
	for p := range w.reports["node-2"].Peers {
		w.reports["node-2"].Peers[p].Path = topology.PathDirect
	}
	if c := w.collect(t); len(c.Problems) != 0 {
		t.Errorf("of a node that uses no tunnel: %v", c.Problems)
	}
}

// If the runtime reads its configs elsewhere, agents are ready, but no pod starts.
func TestNodeNotReady(t *testing.T) {
	w := newWorld(2)
	w.rows[1].NotReady = "container runtime network not ready: cni plugin not initialized"
	c := w.collect(t)
	if c.OK() || len(c.Groups()) != 1 || c.Groups()[0].Message != "the agent is ready, but the node is not: container runtime network not ready: cni plugin not initialized" {
		t.Errorf("OK is %t, and the problems are %v", c.OK(), c.Groups())
	}
}

// A Problem of many machines is one Group, although each has a name of its own.
func TestProblemOfManyHosts(t *testing.T) {
	c := &Cluster{}
	for _, name := range []string{"a", "b", "c"} {
		row := Row{Node: name, Report: &status.Report{Node: name, Problems: []problem.Problem{
			{Subject: problem.Node(name), Reason: problem.CNIConflict, Message: "another", BlocksReady: true}, {Subject: problem.Node("a"), Reason: problem.PodCIDRRefused, Message: "outside"},
		}}}
		c.Nodes = append(c.Nodes, row)
	}
	groups := c.Groups()
	if len(groups) != 2 || len(groups[0].Nodes) != 3 || len(groups[1].Nodes) != 3 ||
		groups[0].String() != "CNIConflict: another" || groups[1].String() != "node a: PodCIDRRefused: outside" {
		t.Errorf("got %+v", groups)
	}
}

// Each Problem of a Row without a Remediation of its own has one by its Reason.
func TestRemediations(t *testing.T) {
	w := broken()
	w.noReport(0, problem.NoAgent, "no agent runs here")
	w.noReport(1, problem.NotRunning, "the agent does not run: ImagePullBackOff")
	w.reports[name(3)].Drift.Error = "operation not permitted"
	w.reports[name(6)].Problems, w.reports[name(6)].Drift.Differences = nil, nil // and it isn't ready
	c := w.collect(t)
	for _, g := range slices.Concat(c.Groups(), c.Problems) {
		if g.Remediation == "" {
			t.Errorf("%v: no remediation of: %s", g.Nodes, g.Message)
		}
	}
}

// A connection that reaches its deadline has the same message as a context that does.
func TestNoAnswerInTime(t *testing.T) {
	s := Collector{Timeout: 5 * time.Second}
	for _, err := range []error{context.DeadlineExceeded, fmt.Errorf("read tcp 192.168.1.1:43452: %w", os.ErrDeadlineExceeded)} {
		if reason, text := s.noReport(err, &Row{}); reason != problem.NoAnswer || text != "no answer from the agent: it runs, but did not answer within 5s" {
			t.Errorf("%v is reported as %s: %s", err, reason, text)
		}
	}
}
