package cleanup

import "github.com/plainroute/plainroute/pkg/plan"

// Summary is a short Result: the termination message of a container has room for 4 KiB
// (terminationMessagePath of the Kubernetes API).
type Summary struct {
	DryRun     bool              `json:"dryRun,omitempty"`
	Removed    map[plan.Kind]int `json:"removed"`
	Kept       []string          `json:"kept,omitempty"`
	Undetached int               `json:"undetached,omitempty"`
	// Refused means that nothing was done, for the reason in Error.
	Refused bool   `json:"refused,omitempty"`
	Error   string `json:"error,omitempty"`
}

const maxError = 2 << 10

// Summary summarizes what Run returned.
func (r Result) Summary(err error) Summary {
	s := Summary{DryRun: r.DryRun, Removed: map[plan.Kind]int{}, Undetached: r.Undetached, Refused: len(r.Refusals) > 0}
	for _, t := range r.Removed {
		s.Removed[t.Kind]++
	}
	for _, k := range r.Kept {
		s.Kept = append(s.Kept, k.String())
	}
	switch {
	case s.Refused:
		s.Error = r.Refusals[0]
	case err != nil:
		s.Error = err.Error()
	}
	s.Error = s.Error[:min(len(s.Error), maxError)]
	return s
}
