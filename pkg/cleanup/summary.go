package cleanup

import (
	"encoding/json"

	"github.com/plainroute/plainroute/pkg/plan"
)

// Summary is a Result in few words: the termination message of a container has room
// for 4 KiB (terminationMessagePath of the Kubernetes API).
type Summary struct {
	DryRun  bool              `json:"dryRun,omitempty"`
	Removed map[plan.Kind]int `json:"removed"`
	Kept    []string          `json:"kept,omitempty"`
	// Undetached counts the dead sandboxes that the runtime has not detached.
	Undetached int `json:"undetached,omitempty"`
	// Refused tells that nothing was done, for the reason in Error.
	Refused bool   `json:"refused,omitempty"`
	Error   string `json:"error,omitempty"`
}

// longestError leaves room for the rest.
const longestError = 2 << 10

// Summary sums up what Run returned.
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
	s.Error = s.Error[:min(len(s.Error), longestError)]
	return s
}

// Line is the Summary as one line of JSON.
func (s Summary) Line() ([]byte, error) { return json.Marshal(s) }
