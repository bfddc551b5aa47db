package status

import (
	"fmt"
	"io"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Condition is one thing that has to be well for this node to be ready.
type Condition struct {
	Name  string         `json:"name"`
	State ConditionState `json:"state"`
	// Reason and Advice are of the first thing that is wrong, Detail of all.
	Reason topology.Reason `json:"reason,omitempty"`
	Detail string          `json:"detail,omitempty"`
	Advice string          `json:"advice,omitempty"`
}

// ConditionState is how it is.
type ConditionState string

// The states of a Condition. Unknown is what has not been looked at yet, or could not
// be looked at for another condition's sake.
const (
	Well    ConditionState = "ok"
	Wrong   ConditionState = "failed"
	Unknown ConditionState = "unknown"
)

// criteria are the conditions in the order in which they come true when a node starts,
// and the reasons that speak against each.
var criteria = []struct {
	name    string
	reasons []topology.Reason
	// node tells that a router, which is no Node and has no pods, lacks it.
	node bool
}{
	{"api-list", []topology.Reason{topology.APIUnavailable}, false},
	{"node", []topology.Reason{topology.NodeMissing}, true},
	{"podcidr", []topology.Reason{topology.PodCIDRMissing, topology.PodCIDRMalformed, topology.PodCIDRRefused}, true},
	{"former-podcidr", []topology.Reason{topology.SubnetChanged}, true},
	{"addresses", []topology.Reason{topology.AddressMissing, topology.AddressMalformed, topology.AddressRefused}, true},
	{"settings", []topology.Reason{topology.SettingMissing, topology.SettingFailed}, false},
	{"kernel", []topology.Reason{topology.KernelFailed}, false},
	{"routes", []topology.Reason{topology.RouteConflict}, false},
	{"table", []topology.Reason{topology.TableFailed}, true},
	{"bridge", []topology.Reason{topology.BridgeFailed}, true},
	{"uncontested", []topology.Reason{topology.Contested}, false},
	{"cni-plugins", []topology.Reason{topology.PluginMissing}, true},
	{"cni-config", []topology.Reason{topology.CNIFailed}, true},
	{"cni-first", []topology.Reason{topology.CNIConflict}, true},
	{"cni-read", []topology.Reason{topology.CNIUnread}, true},
}

// Conditions says of each thing that this node needs how it is. What is wrong with
// peers is in none of them.
func (r *Result) Conditions() []Condition {
	blocking := r.Blocking()
	conditions := make([]Condition, 0, len(criteria))
	for _, c := range criteria {
		if c.node && r.Host.Router {
			continue
		}
		condition := Condition{Name: c.name, State: Well}
		if !r.Seen && c.name != "api-list" {
			condition.State = Unknown
		}
		for _, p := range blocking {
			if slices.Contains(c.reasons, p.Reason) {
				condition.add(p)
			}
		}
		conditions = append(conditions, condition)
	}
	return conditions
}

// add takes up what is wrong.
func (c *Condition) add(p topology.Problem) {
	if c.State != Wrong {
		c.State, c.Reason, c.Detail, c.Advice = Wrong, p.Reason, p.Detail, p.Reason.Advice()
		return
	}
	c.Detail += "; " + p.Detail
}

// writeConditions lists them as kube-apiserver's /readyz?verbose does.
func writeConditions(w io.Writer, conditions []Condition, ready bool) {
	marks := map[ConditionState]string{Well: "[+]", Wrong: "[-]", Unknown: "[?]"}
	for _, c := range conditions {
		line := fmt.Sprintf("%s%s %s", marks[c.State], c.Name, c.State)
		if c.State == Wrong {
			line += fmt.Sprintf(": %s: %s", c.Reason, Printable(c.Detail))
		}
		fmt.Fprintln(w, line)
	}
	verdict := "passed"
	if !ready {
		verdict = "failed"
	}
	fmt.Fprintln(w, "readyz check", verdict)
}
