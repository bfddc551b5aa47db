package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// A section measures one thing, on a running agent whose routes are all there, and leaves it like that.
type section struct {
	name string
	run  func(context.Context, *lab, *report) error
	of   reach
}

// reach is the state of peers for which a section is meant.
type reach int

const (
	anyReach reach = iota
	onLink
	offLink
	claims // on link, and a Node has nothing but its claims
)

// sections come in the order in which they run: those that restart the agent are last.
func sections() []section {
	return []section{
		{"idle", measureIdle, anyReach},
		{"new", measureNew, anyReach},
		{"move", measureMove, onLink},
		{"delete", measureDelete, anyReach},
		{"neighbor", measureNeighbor, offLink},
		{"fdb", measureFDB, offLink},
		{"heartbeat", measureHeartbeat, anyReach},
		{"status", measureStatus, anyReach},
		{"flush", measureFlush, anyReach},
		{"flap", measureFlap, onLink},
		{"feed", measureFeed, onLink},
		{"away", measureAway, onLink},
		{"restart", measureRestart, anyReach},
		{"plan", measurePlan, claims},
		{"batch", measureBatch, claims},
	}
}

// suits reports whether a section is meant for the state of peers that is measured.
func (s section) suits(opts options) bool {
	if opts.claims || s.of == claims {
		return opts.claims && s.of == claims
	}
	return s.of == anyReach || (s.of == offLink) == opts.offLink
}

// sectionNames are those that suit opts.
func sectionNames(opts options) []string {
	if opts.agents > 0 {
		return fleetSections
	}
	var names []string
	for _, s := range sections() {
		if s.suits(opts) {
			names = append(names, s.name)
		}
	}
	return names
}

// measureAgent sets the cluster up, runs the chosen sections, and prints the figures.
func measureAgent(ctx context.Context, opts options) error {
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
	return report.finish(os.Stdout, opts)
}

// progress goes to standard error, so that standard output holds the figures alone.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}
