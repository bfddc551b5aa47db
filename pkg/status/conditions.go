package status

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
)

// Condition is one requirement for this node to be ready, as /readyz?verbose lists it.
type Condition struct {
	Name string `json:"name"`
	// Status is Unknown if it has not been checked, or can't be because another Condition fails.
	Status metav1.ConditionStatus `json:"status"`
	// Reason is that of the first Problem that fails it; Message joins those of all.
	Reason  problem.Reason `json:"reason,omitempty"`
	Message string         `json:"message,omitempty"`
}

const apiList = "api-list"

// conditions are in the order in which they come true when a node starts. problem.Reason.Ready
// names the one that a Reason fails.
var conditions = []string{
	apiList, "node", "podcidr", "former-podcidr", "addresses", "settings", "kernel", "routes", "table", "tunnels", "bridge", "uncontested",
	"cni-plugins", "cni-config", "cni-first", "cni-read",
}

// ofRouter are the conditions of a router, which has no Node and no pods.
var ofRouter = []string{apiList, "settings", "kernel", "routes", "uncontested"}

// Conditions returns all conditions. Problems of peers affect none of them.
func (r *Result) Conditions() []Condition {
	blocking := r.Blocking()
	all := make([]Condition, 0, len(conditions))
	for _, name := range conditions {
		if r.Host.Router && !slices.Contains(ofRouter, name) {
			continue
		}
		condition := Condition{Name: name, Status: metav1.ConditionTrue}
		if !r.Seen && name != apiList {
			condition.Status = metav1.ConditionUnknown
		}
		for _, p := range blocking {
			switch {
			case p.Reason.Ready() != name:
			case condition.Status == metav1.ConditionFalse:
				condition.Message += "; " + p.Message
			default:
				condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, p.Reason, p.Message
			}
		}
		all = append(all, condition)
	}
	return all
}

// String returns the status, with the reason of a failure, on one line.
func (c Condition) String() string {
	switch c.Status {
	case metav1.ConditionTrue:
		return "ok"
	case metav1.ConditionFalse:
		return text.Printable(fmt.Sprintf("failed: %s: %s", c.Reason, c.Message))
	}
	return "unknown"
}

// writeConditions writes them like /readyz?verbose of kube-apiserver.
func writeConditions(w io.Writer, all []Condition, ready bool) {
	marks := map[metav1.ConditionStatus]string{metav1.ConditionTrue: "[+]", metav1.ConditionFalse: "[-]"}
	for _, c := range all {
		fmt.Fprintf(w, "%s%s %s\n", cmp.Or(marks[c.Status], "[?]"), c.Name, c)
	}
	verdict := "passed"
	if !ready {
		verdict = "failed"
	}
	fmt.Fprintln(w, "readyz check", verdict)
}
