// Package finding is what doctors say: of one node, and of all nodes of a cluster.
package finding

import "slices"

// Verdict is how bad a finding is.
type Verdict string

// The verdicts. A failure keeps traffic from flowing, or will; a warning is a risk or
// a hint; skipped is a check that can't see what it needs.
const (
	OK      Verdict = "ok"
	Warning Verdict = "warning"
	Failure Verdict = "failure"
	Skipped Verdict = "skipped"
)

// Finding is what a check found.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	// Fault is what is wrong, or why the check was skipped.
	Fault string `json:"fault,omitempty"`
	// Evidence is what was seen, in the words of the tools that show it.
	Evidence string `json:"evidence,omitempty"`
	// Cure is what to do.
	Cure string `json:"cure,omitempty"`
}

// Worst returns the worst verdict there is.
func Worst(found []Finding) Verdict {
	worst := OK
	for _, v := range []Verdict{Skipped, Warning, Failure} {
		if slices.ContainsFunc(found, func(f Finding) bool { return f.Verdict == v }) {
			worst = v
		}
	}
	return worst
}
