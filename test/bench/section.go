package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// A section measures one thing, on a running agent whose routes are all there, and leaves it like that.
type section struct {
	name string
	run  func(context.Context, *lab, *report) error
}

// sections come in the order in which they run: those that restart the agent are last.
func sections() []section {
	return []section{
		{"idle", measureIdle},
		{"new", measureNew},
		{"move", measureMove},
		{"delete", measureDelete},
		{"heartbeat", measureHeartbeat},
		{"status", measureStatus},
		{"flush", measureFlush},
		{"flap", measureFlap},
		{"away", measureAway},
		{"restart", measureRestart},
	}
}

func sectionNames() []string {
	var names []string
	for _, s := range sections() {
		names = append(names, s.name)
	}
	return names
}

// measure sets the cluster up, runs the chosen sections, and prints the figures.
func measure(ctx context.Context, opts options) error {
	progress("starting the control plane")
	l, err := newLab(ctx, opts)
	if err != nil {
		return err
	}
	progress("creating %d Nodes", opts.nodes)
	if err := l.populate(ctx); err != nil {
		return err
	}
	report := &report{Nodes: opts.nodes, DualStack: opts.dualStack}
	if err := measureList(ctx, l, report); err != nil {
		return err
	}
	if err := measureStart(ctx, l, report); err != nil {
		return err
	}
	for _, s := range sections() {
		if !slices.Contains(opts.wanted(), s.name) {
			continue
		}
		progress("measuring: %s", s.name)
		if err := s.run(ctx, l, report); err != nil {
			return fmt.Errorf("measuring %q: %w\nend of the agent's log:\n%s", s.name, err, l.agent.logTail())
		}
	}
	if err := report.print(os.Stdout, opts.output); err != nil {
		return err
	}
	if missed := report.missed(); opts.must && len(missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(missed, "; "))
	}
	return nil
}

// progress goes to standard error, so that standard output holds the figures alone.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}
