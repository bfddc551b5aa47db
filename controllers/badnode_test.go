package controllers

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/ratelog"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

var update = flag.Bool("update", false, "write the results into testdata")

// Each case of testdata/badnodes is a Node that no route should be made of, or
// one that looks odd and is fine. None of them affects another Node, and the Reason
// is in the latest Result, in the metric and once in the log.
func TestBadNodes(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), newNode("node2", "10.244.2.0/24", "fd00:10:244:2::/64", "192.168.1.12", "fd00:192:168:1::12"))
	now := time.Now()
	a := startAgent(t, agentOptions{log: ratelog.New(func() time.Time { // the cases are of one name, and hours apart
		now = now.Add(time.Hour)
		return now
	})})
	a.eventually(a.ready)
	a.eventually(a.noProblems)
	good := a.host.routes()
	files, err := filepath.Glob("testdata/badnodes/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d cases: %v", len(files), err)
	}
	for _, file := range files {
		passed := t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			(&badNodeCase{agent: a, api: api, t: t, good: good}).run(file)
		})
		if !passed {
			break // the next ones would find what this one left
		}
	}
}

// badNodeCase has the files node.yaml and want. The latter is "refused by the
// API server", or the Node's Problems and routes, and our own routes that went.
type badNodeCase struct {
	*agent
	api  clusterNodes
	t    *testing.T
	good []string
}

func (c *badNodeCase) run(file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	node := &corev1.Node{}
	if err := yaml.UnmarshalStrict(archive.Files[0].Data, node); err != nil {
		c.t.Fatal(err)
	}
	c.agent.t = c.t
	got := c.try(node)
	if want := archive.Files[1]; got != string(want.Data) && !*update {
		c.t.Errorf("got:\n%swant:\n%s", got, want.Data)
	}
	archive.Files[1].Data = []byte(got)
	if *update {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *badNodeCase) try(node *corev1.Node) string {
	logged := len(c.log.with())
	made, err := c.api.Create(context.Background(), node, metav1.CreateOptions{})
	if apierrors.IsInvalid(err) {
		return "refused by the API server\n"
	}
	if err != nil {
		c.t.Fatal(err)
	}
	defer c.leave(node.Name)
	c.eventually(func() error { return c.passed(made.UID) })
	c.onePassMore() // the one before has reported everything by then, and this one reports nothing new
	c.harmless(node.Name)
	problems := c.problems(node.Name)
	c.reported(problems, c.log.with()[logged:])
	var got bytes.Buffer
	for _, p := range problems {
		fmt.Fprintln(&got, p)
	}
	for _, route := range c.host.routes() {
		if !slices.Contains(c.good, route) {
			fmt.Fprintln(&got, route)
		}
	}
	return got.String()
}

// leave deletes the Node, after which all is as if it had never been.
func (c *badNodeCase) leave(name string) {
	c.api.Remove(name)
	c.eventually(func() error {
		if c.passed("") != nil || !slices.Equal(c.host.routes(), c.good) {
			return fmt.Errorf("routes are %q, want %q", c.host.routes(), c.good)
		}
		return c.noProblems()
	})
}

// passed returns an error unless a pass has ended that saw a Node of this UID beside the
// good ones; empty: that saw only those.
func (c *badNodeCase) passed(uid types.UID) error {
	all := c.latest.Last().Nodes
	if uid == "" && len(all) == 2 {
		return nil
	}
	if !slices.ContainsFunc(all, func(n *topology.Node) bool { return uid != "" && n.UID == string(uid) }) {
		return fmt.Errorf("the last pass did not see %q, but %d Nodes", uid, len(all))
	}
	return nil
}

// harmless checks that all others are as before.
func (c *badNodeCase) harmless(name string) {
	c.t.Helper()
	have := c.host.routes()
	for _, route := range c.good {
		if !slices.Contains(have, route) {
			c.t.Errorf("lost %q", route)
		}
	}
	for _, p := range c.latest.Last().Problems {
		if p.Node != name || p.BlocksReady {
			c.t.Errorf("another Node has a problem: %s", p)
		}
	}
	if err := c.ready(); err != nil {
		c.t.Error(err)
	}
}

// reported checks that the metric and the log have the problems, the log once.
func (c *badNodeCase) reported(problems []problem.Problem, log []string) {
	c.t.Helper()
	reasons := map[problem.Reason]int{}
	for _, p := range problems {
		reasons[p.Reason]++
		lines := 0
		for _, line := range log {
			if strings.Contains(line, "msg=Problem ") && strings.Contains(line, "node="+p.Node) &&
				strings.Contains(line, "reason="+string(p.Reason)) && strings.Contains(line, fmt.Sprintf("detail=%q", p.Message)) {
				lines++
			}
		}
		if lines != 1 {
			c.t.Errorf("%s has %d lines in the log, want 1: %q", p, lines, log)
		}
	}
	for reason, n := range reasons {
		c.eventually(c.metricIs(float64(n), "plainroute_problems", map[string]string{"reason": string(reason), "own": "false"}))
	}
}

// A kubelet may write thousands of addresses. It is that Node's affair alone, and
// costs the others nothing.
func TestTwentyThousandInternalIPs(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	const first = "10.244.77.0/24 via 192.168.1.77"
	n := 20000
	api.Add(apiserver.ManyAddresses(n))
	a.eventually(a.hasRoutes(peerRoute(2), first))
	for ; n < 200000; n += 5000 {
		api.Remove("many")
		if _, err := api.Create(context.Background(), apiserver.ManyAddresses(n), metav1.CreateOptions{}); err != nil {
			t.Logf("with %d the object is too large: %.100s", n, err)
			n -= 5000
			api.Add(apiserver.ManyAddresses(n))
			break
		}
	}
	a.eventually(a.hasRoutes(peerRoute(2), first))
	a.eventually(func() error { return a.hasProblem("many", problem.AddressRefused) })
	if got := a.problems("many"); len(got) != 1 || !strings.Contains(got[0].Message, "more than 16 InternalIPs") {
		t.Errorf("problems are %v", got)
	}
	a.eventually(a.ready)
	least := time.Hour
	for range 5 { // others may have had the machine meanwhile
		a.onePassMore()
		least = min(least, a.latest.Last().Pass.Duration)
	}
	if least > time.Second {
		t.Errorf("a pass with it takes %s", least)
	}
	if _, body := a.get("/status"); len(body) > 64<<10 {
		t.Errorf("/status has %d bytes", len(body))
	}
}
