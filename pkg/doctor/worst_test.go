package doctor

import (
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// worstOf returns the highest Severity of Problems; None if there are none.
func worstOf(problems []problem.Problem) problem.Severity {
	worst := problem.None
	for _, s := range []problem.Severity{problem.Info, problem.Unknown, problem.Warning, problem.Error} {
		if slices.ContainsFunc(problems, func(p problem.Problem) bool { return p.Severity == s }) {
			worst = s
		}
	}
	return worst
}
