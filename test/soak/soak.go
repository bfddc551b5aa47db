package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"text/tabwriter"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

const (
	// limit bounds the time until the cluster rests.
	limit = time.Minute
	// warmUp is how many faults come before the first census: pools and caches have
	// to fill once.
	warmUp = 500
	// between leaves room for the agent to see some faults of a burst or of the warm-up alone and others in one go.
	between = 8 * time.Millisecond
)

// soak does the faults, and compares the agent before and after.
func soak(ctx context.Context, opts options) error {
	v, err := newVictim(ctx, opts.Config)
	if err != nil {
		return err
	}
	say("seed %d; %d faults to warm up", opts.seed, warmUp)
	random := rand.New(rand.NewPCG(opts.seed, 0))
	counts := map[string]int{}
	if err := v.torment(ctx, random, pace{warmUp, 0, between}, counts); err != nil {
		return err
	}
	before, err := v.census(ctx)
	if err != nil {
		return err
	}
	clear(counts)
	start := time.Now()
	if err := v.torment(ctx, random, opts.pace, counts); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := v.census(ctx)
	if err != nil {
		return err
	}
	return report(before, after, counts, took)
}

// A pace is the minimum of faults, their minimal time, and their average interval. An object that
// is deleted again and again is put back every two seconds only: at a crowded pace most faults meet
// that back-off.
type pace struct {
	faults int
	last   time.Duration
	every  time.Duration
}

// torment does faults.
func (v *victim) torment(ctx context.Context, random *rand.Rand, p pace, counts map[string]int) error {
	start, reported := time.Now(), time.Now()
	for n := 0; n < p.faults || time.Since(start) < p.last; n++ {
		fault := allFaults[random.IntN(len(allFaults))]
		if err := fault.do(ctx, v, random); err != nil {
			return fmt.Errorf("fault %d, %s: %w", n, fault.name, err)
		}
		counts[fault.name]++
		if !v.node.AgentRunning() {
			return fmt.Errorf("after fault %d, %s: the agent ended\n%s", n, fault.name, v.node.LogTail(20))
		}
		if time.Since(reported) > 10*time.Second {
			reported = time.Now()
			say("%d faults done", n+1)
		}
		if err := testutil.Pause(ctx, time.Duration(random.Int64N(int64(2*p.every)))); err != nil {
			return err
		}
	}
	return v.recover(ctx)
}

func report(before, after census, counts map[string]int, took time.Duration) error {
	sum := 0
	for _, n := range counts {
		sum += n
	}
	say("%d faults of %d kinds in %s; the node is as it should be, and foreign objects are as before", sum, len(counts), took.Round(time.Second))
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what\tafter warming up\tat the end\tmay be")
	grown := ""
	for _, g := range gauges {
		b, a := before[g.metric], after[g.metric]
		may := b*g.factor + g.slack
		fmt.Fprintf(table, "%s\t%.0f %s\t%.0f %s\t%.0f\n", g.name, b/g.unit, g.suffix, a/g.unit, g.suffix, may/g.unit)
		if a > may {
			grown += " " + g.name
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if grown != "" {
		return fmt.Errorf("grown:%s", grown)
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Printf(time.Now().Format("15:04:05")+" "+format+"\n", args...)
}

// newVictim makes a node with an agent and a pod among peers, behind a gate to the API server.
func newVictim(ctx context.Context, config nodelab.Config) (*victim, error) {
	c, err := nodelab.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	v := &victim{cluster: c}
	if v.node, err = c.NewNode(1); err != nil {
		return nil, err
	}
	if err := v.node.Register(ctx); err != nil {
		return nil, err
	}
	for i := range peers {
		peer, err := c.NewNode(2 + i)
		if err != nil {
			return nil, err
		}
		if err := peer.Register(ctx); err != nil {
			return nil, err
		}
		v.peers = append(v.peers, peer)
	}
	return v, v.start(ctx)
}
