// Package doctor looks for what keeps a node's pods from being served: each check
// names the fault, the evidence and the cure. It reads, and changes nothing.
package doctor

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/finding"
)

// Check looks for one kind of fault.
type Check struct {
	// Name is what --check takes and docs/doctor.md lists.
	Name string
	// Run returns what it found; nothing: all is well. It gives up when the context ends.
	Run func(context.Context, *Patient) []Finding
}

// Verdict is how bad a finding is.
type Verdict = finding.Verdict

// The verdicts, as package finding has them.
const (
	OK      = finding.OK
	Warning = finding.Warning
	Failure = finding.Failure
	Skipped = finding.Skipped
)

// Finding is what a check found.
type Finding = finding.Finding

// Fail makes a finding that something is wrong.
func Fail(fault, evidence, cure string) Finding {
	return Finding{Verdict: Failure, Fault: fault, Evidence: evidence, Cure: cure}
}

// Warn makes a finding that something may become wrong.
func Warn(fault, evidence, cure string) Finding {
	return Finding{Verdict: Warning, Fault: fault, Evidence: evidence, Cure: cure}
}

// Skip makes a finding that nothing could be seen, and how it could.
func Skip(why, cure string) []Finding { return []Finding{{Verdict: Skipped, Fault: why, Cure: cure}} }

// limit is what one check may take. Those that wait for the network wait for less.
const limit = 15 * time.Second

// Examine runs all checks at the same time. What they found is in their order, and a
// check that found nothing has a finding that says so.
func Examine(ctx context.Context, p *Patient, checks []Check) []Finding {
	found := make([][]Finding, len(checks))
	var all sync.WaitGroup
	for i, c := range checks {
		all.Go(func() { found[i] = c.examine(ctx, p, limit) })
	}
	all.Wait()
	return slices.Concat(found...)
}

// examine bounds a check, and makes a finding of its own of one that hangs.
func (c Check) examine(ctx context.Context, p *Patient, limit time.Duration) []Finding {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []Finding, 1)
	go func() { done <- c.try(ctx, p) }()
	var found []Finding
	select {
	case found = <-done:
	case <-time.After(limit + time.Second):
		found = []Finding{Warn(fmt.Sprintf("this check did not end within %s", limit), "", "run it again by itself: plainroute doctor --check "+c.Name)}
	}
	if len(found) == 0 {
		return []Finding{{Check: c.Name, Verdict: OK}}
	}
	for i := range found {
		found[i].Check = c.Name
	}
	return found
}

// try makes a finding of a panic: one check's fault must not hide what others found.
func (c Check) try(ctx context.Context, p *Patient) (found []Finding) {
	defer func() {
		if r := recover(); r != nil {
			found = []Finding{Warn(fmt.Sprintf("this check is at fault itself: %v", r), string(debug.Stack()), "report it, with this text")}
		}
	}()
	return c.Run(ctx, p)
}
