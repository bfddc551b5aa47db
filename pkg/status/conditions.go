package status

import (
	"cmp"
	"fmt"
	"io"

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
var conditions = []struct {
	name string
	node bool // excludes a router, which has no Node and no pods
}{
	{apiList, false},
	{"node", true}, {"podcidr", true}, {"former-podcidr", true}, {"addresses", true},
	{"settings", false}, {"kernel", false}, {"routes", false},
	{"table", true}, {"bridge", true},
	{"uncontested", false},
	{"cni-plugins", true}, {"cni-config", true}, {"cni-first", true}, {"cni-read", true},
}

// Conditions returns all conditions. Problems of peers affect none of them.
func (r *Result) Conditions() []Condition {
	blocking := r.Blocking()
	all := make([]Condition, 0, len(conditions))
	for _, c := range conditions {
		if c.node && r.Host.Router {
			continue
		}
		condition := Condition{Name: c.name, Status: metav1.ConditionTrue}
		if !r.Seen && c.name != apiList {
			condition.Status = metav1.ConditionUnknown
		}
		for _, p := range blocking {
			switch {
			case p.Reason.Ready() != c.name:
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
