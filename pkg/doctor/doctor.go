// Package doctor looks for what keeps a node's pods from being served: each check
// names the fault, the evidence and the cure. It reads, and changes nothing.
package doctor

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Check looks for one kind of fault.
type Check struct {
	// Name is what --check takes; problem.Checks has all, and docs/doctor.md a row for each.
	Name string
	// Run returns what is wrong; nil: nothing. It gives up when the context ends.
	Run func(context.Context, *Patient) []problem.Problem
}

// Fail returns a Problem that keeps traffic from flowing, or will.
func Fail(message, evidence, remediation string) problem.Problem {
	return problem.Problem{Severity: problem.Error, Message: message, Evidence: evidence, Remediation: remediation}
}

// Warn returns a Problem that is a risk.
func Warn(message, evidence, remediation string) problem.Problem {
	return problem.Problem{Severity: problem.Warning, Message: message, Evidence: evidence, Remediation: remediation}
}

// Skip returns a Problem that says why a check could not see what it needs, and how it could.
func Skip(why, remediation string) []problem.Problem {
	return []problem.Problem{{Severity: problem.Unknown, Message: why, Remediation: remediation}}
}

// limit is what one check may take. Those that wait for the network wait for less.
const limit = 15 * time.Second

// Examine runs all checks at the same time. It returns the names of those that found nothing, and what the others found, in
// their order.
func Examine(ctx context.Context, p *Patient, checks []Check) (passed []string, problems []problem.Problem) {
	found := make([][]problem.Problem, len(checks))
	var all sync.WaitGroup
	for i, c := range checks {
		all.Go(func() { found[i] = c.examine(ctx, p, limit) })
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

// examine bounds a check, and returns a Problem of one that hangs.
func (c Check) examine(ctx context.Context, p *Patient, limit time.Duration) []problem.Problem {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []problem.Problem, 1)
	go func() { done <- c.try(ctx, p) }()
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

// try returns a Problem of a panic: a bug of one check must not hide what others found.
func (c Check) try(ctx context.Context, p *Patient) (found []problem.Problem) {
	defer func() {
		if r := recover(); r != nil {
			found = []problem.Problem{Warn(fmt.Sprintf("this check has a bug: %v", r), string(debug.Stack()), "report it, with this text")}
		}
	}()
	return c.Run(ctx, p)
}
