// Package doctor looks for problems that disturb a node's pods: each check reports the problem, the
// evidence and the remediation. It changes nothing.
package doctor

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Check looks for one kind of problem.
type Check struct {
	// Name is the value for --check; problem.Checks lists all names, and docs/doctor.md has a row
	// for each.
	Name string
	// Run returns the problems that it found, nil if there are none. It returns early when the
	// context ends.
	Run func(context.Context, *Target) []problem.Problem
}

// Fail returns a Problem that disturbs traffic, or will.
func Fail(message, evidence, remediation string) problem.Problem {
	return problem.Problem{Severity: problem.Error, Message: message, Evidence: evidence, Remediation: remediation}
}

// Warn returns a Problem that is a risk.
func Warn(message, evidence, remediation string) problem.Problem {
	return problem.Problem{Severity: problem.Warning, Message: message, Evidence: evidence, Remediation: remediation}
}

// Skip returns a Problem with the reason why a check could not run, and how it could.
func Skip(why, remediation string) []problem.Problem {
	return []problem.Problem{{Severity: problem.Unknown, Message: why, Remediation: remediation}}
}

// limit bounds the time of one check. Those that wait for the network have shorter limits.
const limit = 15 * time.Second

// Examine runs all checks at the same time. It returns the names of those that found nothing, and
// the problems that the others found, in the order of the checks.
func Examine(ctx context.Context, t *Target, checks []Check) (passed []string, problems []problem.Problem) {
	found := make([][]problem.Problem, len(checks))
	var all sync.WaitGroup
	for i, c := range checks {
		all.Go(func() { found[i] = c.examine(ctx, t, limit) })
	}
	all.Wait()
	passed, problems = []string{}, []problem.Problem{}
	for i, c := range checks {
		if len(found[i]) == 0 {
			passed = append(passed, c.Name)
		}
		problems = append(problems, found[i]...)
	}
	return passed, problems
}

// examine runs one check, and returns a Problem if it exceeds the limit.
func (c Check) examine(ctx context.Context, t *Target, limit time.Duration) []problem.Problem {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []problem.Problem, 1)
	go func() { done <- c.try(ctx, t) }()
	var found []problem.Problem
	select {
	case found = <-done:
	case <-time.After(limit + time.Second):
		found = []problem.Problem{Warn(fmt.Sprintf("this check did not end within %s", limit), "", "run it again by itself: plainroute doctor --check "+c.Name)}
	}
	for i := range found {
		found[i].Reason = problem.ReasonOf(c.Name)
	}
	return found
}

// try returns a Problem for a panic, so that a bug in one check does not hide the results of
// others.
func (c Check) try(ctx context.Context, t *Target) (found []problem.Problem) {
	defer func() {
		if r := recover(); r != nil {
			found = []problem.Problem{Warn(fmt.Sprintf("this check panicked: %v", r), string(debug.Stack()), "report this as a bug, with the evidence")}
		}
	}()
	return c.Run(ctx, t)
}
