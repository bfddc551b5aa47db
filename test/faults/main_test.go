// Package faults does to a running cluster what goes wrong in operation, one fault after the other, and measures how
// long it takes until all is as it was, and what the pods' traffic lost meanwhile.
//
// A fault is an entry of a table (see fault and sections). Each gets a lab: two fresh nodes with an agent and a pod
// each, and pings between the pods all the time, 100 a second each way, over IPv4 and IPv6. Whatever the fault, what
// is not the agent's is compared before and after: routes, nftables, settings, files.
//
// With -update the measurements are written to docs/faults.md.
package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/cluster"
	"github.com/plainroute/plainroute/test/cluster/sandbox"
)

// limit is what a single wait may take on a machine under load, before it counts as hanging.
const limit = time.Minute

var (
	update = flag.Bool("update", false, "write what was measured to docs/faults.md")
	table  = flag.String("table", "", "write what was measured to this file, a line each")
)

// skipReason is set once, before any test runs.
var skipReason string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	config, err := configuration()
	if err != nil {
		skipReason = err.Error()
		return m.Run()
	}
	box, code, err := sandbox.Enter(nil)
	switch {
	case errors.Is(err, sandbox.ErrNotPermitted):
		skipReason = err.Error()
		return m.Run()
	case err != nil:
		fmt.Fprintln(os.Stderr, "faults:", err)
		return code
	case box == nil:
		return code
	}
	shared = sync.OnceValues(func() (*site, error) { return build(config) })
	return m.Run()
}

func configuration() (cluster.Config, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return cluster.Config{}, fmt.Errorf("finding the module's folder: %w", err)
	}
	config := cluster.ConfigFromEnv(root, "/run/cluster")
	return config, config.Check()
}

// shared is the one cluster in which all labs are, made by the first that needs it.
var shared func() (*site, error)

// site is the cluster and the numbers of nodes that are free.
type site struct {
	*cluster.Cluster
	numbers chan int
}

// mostNodes is how many nodes package cluster can address.
const mostNodes = 200

func build(config cluster.Config) (*site, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	c, err := cluster.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	s := &site{Cluster: c, numbers: make(chan int, mostNodes)}
	for number := range mostNodes {
		s.numbers <- number + 1
	}
	return s, nil
}

// quickLanes is how many quick faults go on at once: they wait more than they compute. What is to be published is measured
// one by one.
func quickLanes() int {
	if *update {
		return 1
	}
	return 3
}

// TestFaults runs the quick faults in a few lanes. The slow ones, which mostly wait, go on beside them, all at once, and
// are set up first. Those that strike the whole cluster come last.
func TestFaults(t *testing.T) {
	if skipReason != "" {
		t.Skip(skipReason)
	}
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	book := newLogbook(sections())
	run := func(f fault, underWay func()) {
		t.Run(f.name, func(t *testing.T) { book.note(f, f.run(t, s, underWay)) })
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
