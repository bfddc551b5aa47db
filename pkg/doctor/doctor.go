// Package doctor looks for problems that disturb a node's pods: each check reports the problem, the
// evidence and the remediation. It changes nothing.
package doctor

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
)

// Fail returns a Problem that disturbs traffic, or will.
func Fail(message, evidence, remedy string) []problem.Problem {
	return []problem.Problem{{Severity: problem.Error, Message: message, Evidence: evidence, Remediation: remedy}}
}

// Warn returns a Problem that is a risk.
func Warn(message, evidence, remedy string) []problem.Problem {
	return []problem.Problem{{Severity: problem.Warning, Message: message, Evidence: evidence, Remediation: remedy}}
}

// Skip returns a Problem with the reason why a check could not run, and how it could.
func Skip(reason, remedy string) []problem.Problem {
	return []problem.Problem{{Severity: problem.Unknown, Message: reason, Remediation: remedy}}
}

// A group is a Problem that several nodes share.
type group struct{ names, evidence []string }

func (g *group) add(name, evidence string, args ...any) {
	g.names, g.evidence = append(g.names, name), append(g.evidence, fmt.Sprintf(evidence, args...))
}

// problems returns a Problem whose message ends with the nodes' names, nil for an empty group.
func (g *group) problems(severity problem.Severity, message, remedy string) []problem.Problem {
	if len(g.names) == 0 {
		return nil
	}
	return []problem.Problem{{Severity: severity, Message: message + named(g.names), Evidence: first(g.evidence), Remediation: remedy}}
}

// warnIf returns a Problem if there is evidence, else nil.
func warnIf(message string, evidence []string, remedy string) []problem.Problem {
	if len(evidence) == 0 {
		return nil
	}
	return Warn(message, strings.Join(evidence, "; "), remedy)
}

// named lists the first few of many names.
func named(names []string) string {
	slices.Sort(names)
	return shorten(slices.Compact(names), 5, ", ", " ")
}

// first returns the first few pieces of evidence, and how many more there are.
func first(evidence []string) string { return shorten(evidence, 3, "; ", "; ") }

func shorten(items []string, few int, separator, last string) string {
	if len(items) <= few {
		return strings.Join(items, separator)
	}
	return strings.Join(items[:few], separator) + last + text.More(len(items)-few, "")
}

// maxProblems bounds the problems of one kind that a check reports.
const maxProblems = 8

// capped replaces the problems above that bound by one that counts them.
func capped(found []problem.Problem, noun, command string) []problem.Problem {
	if more := len(found) - maxProblems; more > 0 {
		return append(found[:maxProblems], Fail(text.More(more, noun), "", "list all of them: "+command)...)
	}
	return found
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
		found = Warn(fmt.Sprintf("this check did not end within %s", limit), "", "run it again by itself: plainroute doctor --check "+c.Name)
	}
	for i := range found {
		found[i].Reason = problem.ReasonOf(c.Name)
	}
	return found
}

// try returns a Problem for a panic, so that a bug in one check does not hide the results of others.
func (c Check) try(ctx context.Context, t *Target) (found []problem.Problem) {
	defer func() {
		if r := recover(); r != nil {
			found = Warn(fmt.Sprintf("this check panicked: %v", r), string(debug.Stack()), "report this as a bug, with the evidence")
		}
	}()
	return c.Run(ctx, t)
}
