// Package faults injects into a running cluster what goes wrong in operation, one fault after the
// other, and measures how long the repair takes, and what the pods' traffic lost meanwhile.
//
// A fault is an entry of a table (see fault and sections). Each gets a lab: two fresh nodes with an
// agent and a pod each, and pings between the pods all the time, 100 a second each way, over IPv4
// and IPv6. Objects that are not the agent's are compared before and after every fault: routes,
// nftables, settings, files.
//
// With -update the measurements are written to docs/faults.md.
package faults

import (
	"context"
	"flag"
	"os"
	"sync"
	"testing"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/seccomp"
	"github.com/plainroute/plainroute/test/testutil"
)

// limit bounds a single wait.
const limit = testutil.Limit

var (
	update = flag.Bool("update", false, "write what was measured to docs/faults.md")
	table  = flag.String("table", "", "write what was measured to this file, a line each")
)

func TestMain(m *testing.M) {
	seccomp.Launch()
	os.Exit(testutil.RunInSandbox(m, nodelab.DefaultConfig().Check))
}

// shared is the one cluster in which all labs are, made by the first that needs it.
var shared = sync.OnceValues(build)

// pool is the cluster and the numbers of nodes that are free.
type pool struct {
	*nodelab.Cluster
	numbers chan int
}

// mostNodes is how many nodes package netlab can address.
const mostNodes = 200

func build() (*pool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	c, err := nodelab.Start(ctx, nodelab.DefaultConfig())
	if err != nil {
		return nil, err
	}
	p := &pool{Cluster: c, numbers: make(chan int, mostNodes)}
	for number := range mostNodes {
		p.numbers <- number + 1
	}
	return p, nil
}

// quickLanes is how many quick faults run at the same time: they wait more than they compute.
// Figures to publish are measured one by one.
func quickLanes() int {
	if *update {
		return 1
	}
	return 3
}

// TestFaults runs the quick faults in a few lanes. The slow ones, which mostly wait, go on beside them, all at once, and
// are set up first. Those of the whole cluster come last.
func TestFaults(t *testing.T) {
	testutil.NeedSandbox(t)
	p, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	book := newLogbook(sections())
	run := func(f fault, underWay func()) {
		t.Run(f.name, func(t *testing.T) { book.note(f, f.run(t, p, underWay)) })
	}
	var starting, ending sync.WaitGroup
	for _, f := range book.faults(func(f fault) bool { return f.slow && !f.alone }) {
		starting.Add(1)
		ending.Go(func() {
			underWay := sync.OnceFunc(starting.Done)
			defer underWay()
			run(f, underWay)
		})
	}
	starting.Wait()
	quick := make(chan fault)
	for range quickLanes() {
		ending.Go(func() {
			for f := range quick {
				run(f, func() {})
			}
		})
	}
	for _, f := range book.faults(func(f fault) bool { return !f.slow && !f.alone }) {
		quick <- f
	}
	close(quick)
	ending.Wait()
	for _, f := range book.faults(func(f fault) bool { return f.alone }) {
		run(f, func() {})
	}
	t.Log("\n" + book.String())
	if *table != "" {
		write(t, *table, book.String())
	}
	if *update && !t.Failed() {
		page, err := book.page()
		if err != nil {
			t.Fatal(err)
		}
		write(t, "../../docs/faults.md", page)
	}
}

func write(t *testing.T, path, content string) {
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Error(err)
	}
}
