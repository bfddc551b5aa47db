// Package diagnosis is what `plainroute doctor` finds on one node and on all, and how it is
// printed.
package diagnosis

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
)

// Report is what the checks found on one node.
type Report struct {
	metav1.TypeMeta `json:",inline"`
	Node            string `json:"node,omitempty"`
	// Examined reports that the checks ran; else Problems has why they did not.
	Examined bool `json:"examined"`
	// Passed are the checks that found nothing.
	Passed []string `json:"passed"`
	// Problems are in the order of the checks. Of severity Unknown are those of checks that could
	// not see what they need.
	Problems []problem.Problem `json:"problems"`
}

// Cluster is what the checks found on all nodes.
type Cluster struct {
	metav1.TypeMeta `json:",inline"`
	Nodes           []Report `json:"nodes"`
}

// NewReport returns the Report of an examined node.
func NewReport(node string, passed []string, problems []problem.Problem) Report {
	return Report{TypeMeta: status.TypeMeta("DoctorReport"), Node: node, Examined: true, Passed: passed, Problems: problems}
}

// NewCluster returns the Reports of all nodes.
func NewCluster(nodes []Report) *Cluster {
	return &Cluster{TypeMeta: status.TypeMeta("DoctorClusterReport"), Nodes: nodes}
}

// OK reports whether no check failed.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Problems, func(p problem.Problem) bool { return p.Severity == problem.Error })
}

// OK reports whether no check failed on any of the nodes, and all were examined that run an agent.
func (c *Cluster) OK() bool {
	return !slices.ContainsFunc(c.Nodes, func(r Report) bool { return !r.OK() })
}

// Format is how Reports are printed.
type Format struct {
	// Output is table or json.
	Output string
	// Verbose prints the checks that passed, and what could not be checked, too.
	Verbose bool
	// Color marks severities.
	Color bool
}

// Print writes what was found on one node.
func (r *Report) Print(w io.Writer, f Format) error { return f.print(w, r, 0, []Report{*r}) }

// Print writes what was found on all nodes. A Problem that nodes share is printed once.
func (c *Cluster) Print(w io.Writer, f Format) error { return f.print(w, c, len(c.Nodes), c.Nodes) }

// print writes a document, or the Problems of its Reports. nodes is the number of nodes; 0: only
// this one.
func (f Format) print(w io.Writer, document any, nodes int, reports []Report) error {
	if f.Output == "json" {
		return text.WriteJSON(w, document)
	}
	var out bytes.Buffer
	var groups problem.Groups
	examined, passed, checks, count := 0, 0, map[string]int{}, map[problem.Severity]int{}
	for i := range reports {
		r := &reports[i]
		for _, p := range r.Problems {
			if f.Verbose || p.Severity == problem.Error || p.Severity == problem.Warning {
				groups.Add(r.Node, p)
			}
			if r.Examined {
				count[p.Severity]++
			}
		}
		for _, check := range r.Passed {
			checks[check]++
		}
		passed += len(r.Passed)
		if r.Examined {
			examined++
		}
	}
	problem.Printer{Color: f.Color, All: f.Verbose, More: "--verbose lists them", Nodes: nodes}.Print(&out, groups.Sorted())
	for _, check := range problem.Checks() {
		if checks[check] == 0 || !f.Verbose {
			continue
		}
		fmt.Fprintf(&out, "%s: %s\n", text.Paint(f.Color, text.Green, "ok"), check)
		if nodes > 0 {
			fmt.Fprintf(&out, "  on %d of %s\n", checks[check], text.Counted(nodes, "node"))
		}
	}
	if nodes > 0 {
		fmt.Fprintf(&out, "%d of %s examined: ", examined, text.Counted(nodes, "node"))
	}
	fmt.Fprintf(&out, "%s passed, %s, %s, %d unknown (--verbose shows why)\n",
		text.Counted(passed, "check"), text.Counted(count[problem.Error], "error"), text.Counted(count[problem.Warning], "warning"), count[problem.Unknown])
	_, err := w.Write(out.Bytes())
	return err
}
