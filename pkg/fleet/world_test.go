package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

var update = flag.Bool("update", false, "write what is got into testdata as what is wanted")

// now is the time of all reports.
var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a cluster whose Nodes all reach each other, to be broken by tests.
type world struct {
	rows    []Row
	reports map[string]*status.Report
}

func name(i int) string { return fmt.Sprintf("node-%d", i+1) }

func subnet(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + i>>8), byte(i), 0}), 24)
}

func newWorld(nodes int) *world {
	w := &world{reports: map[string]*status.Report{}}
	for i := range nodes {
		w.rows = append(w.rows, Row{
			Node: fmt.Sprintf("node-%d", i+1), Subnets: []string{subnet(i).String()},
			Agent: &Agent{Namespace: "plainroute-system", Pod: "plainroute-" + string(rune('a'+i%26)), Started: now.Add(-time.Hour), Port: 9472, Image: "plainroute:1"},
		})
		w.reports[name(i)] = report(i, nodes)
	}
	return w
}

func report(of, nodes int) *status.Report {
	r := &status.Report{
		Version: "v1", Node: name(of), Ready: true,
		Host: status.Host{
			Addresses: []netip.Addr{via(of)}, Subnets: []netip.Prefix{subnet(of)}, Uplinks: []status.Uplink{{Name: "eth0", MTU: 1500}}, MTU: 1500,
		},
		API: status.API{Synced: true}, Drift: status.Drift{Time: now}, Pass: status.Pass{Time: now.Add(-9 * time.Second)},
	}
	for i := range nodes {
		if i != of {
			r.Peers = append(r.Peers, status.Peer{Node: name(i), Subnet: subnet(i), Via: via(i), Dev: "eth0", State: status.OK})
		}
	}
	return r
}

func via(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}) }

// lose has a Node lose its route to another.
func (w *world) lose(from, to int, state status.PeerState, reason problem.Reason, detail string) {
	r := w.reports[name(from)]
	for i := range r.Peers {
		if r.Peers[i].Node == name(to) {
			r.Peers[i].State, r.Peers[i].Message = state, detail
		}
	}
	if reason != "" {
		r.Problems = append(r.Problems, problem.Problem{Subject: problem.Node(name(to)), Reason: reason, Message: detail})
	}
}

func (w *world) noReport(node int, why problem.Reason, detail string) {
	delete(w.reports, name(node))
	w.rows[node].NoReport, w.rows[node].Message = why, detail
}

// collect returns the Cluster of this world.
func (w *world) collect(t *testing.T) *Cluster {
	t.Helper()
	c := &Cluster{Time: now, Nodes: w.rows}
	d := newAggregator(c)
	s := &Collector{Parallel: 8, Timeout: time.Minute, Get: func(_ context.Context, a *Agent, path string) (io.ReadCloser, error) {
		if path != "/status?brief=true" {
			return nil, errors.New("no such path")
		}
		text, err := json.Marshal(w.reports[a.Container])
		return io.NopCloser(bytes.NewReader(text)), err
	}}
	var asked []*Row
	for i := range c.Nodes {
		if w.reports[c.Nodes[i].Node] != nil {
			c.Nodes[i].Agent.Container = c.Nodes[i].Node // what the world's agents are known by
			asked = append(asked, &c.Nodes[i])
		}
	}
	if err := s.each(t.Context(), asked, func(ctx context.Context, row *Row) { s.query(ctx, d, row) }); err != nil {
		t.Fatal(err)
	}
	c.Problems = d.crossProblems()
	return c
}

// broken is a small world with one of each.
func broken() *world {
	w := newWorld(7)
	w.lose(0, 1, status.Conflict, problem.RouteConflict, "the kernel prefers another")
	w.lose(2, 1, status.Conflict, problem.RouteConflict, "the kernel prefers another")
	w.lose(3, 4, status.Missing, "", "an operator deleted it")
	w.noReport(4, problem.NoAnswer, "no answer from the agent: none within 5s; the node is not ready: Kubelet stopped posting node status.")
	w.noReport(5, problem.NotManaged, "no agent is supposed to run here: the operating system is windows")
	w.rows[5].Agent = nil
	w.reports[name(6)].Version = "v2"
	w.reports[name(6)].Ready = false
	w.reports[name(6)].Problems = []problem.Problem{{Reason: problem.SettingMissing, Message: "net/ipv4/ip_forward is 0", BlocksReady: true}}
	w.reports[name(6)].Drift.Differences = []problem.Problem{problem.New(problem.Missing, problem.Subject{Subnet: subnet(1)}, "%s %s", plan.KindRoute, "10.128.1.0/24 via 192.168.0.1 dev eth0 proto 112 metric 2187")}
	w.reports[name(6)].Peers[2].Node = name(0) // 10.128.2.0/24 is node-3's
	w.reports[name(2)].API.Error = "connection refused"
	w.reports[name(3)].Drift.Differences = []problem.Problem{problem.New(problem.Missing, problem.Subject{Subnet: subnet(4)}, "%s %s", plan.KindRoute, "10.128.4.0/24 via 192.168.0.4 dev eth0 proto 112 metric 2190")}
	return w
}

// golden compares with a file of testdata.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", path, diff)
	}
}
