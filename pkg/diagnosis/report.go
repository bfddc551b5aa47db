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
func (r *Report) Print(w io.Writer, f Format) error {
	if f.Output == "json" {
		return text.WriteJSON(w, r)
	}
	var out bytes.Buffer
	f.print(&out, 0, []Report{*r})
	fmt.Fprintln(&out, summary([]Report{*r}))
	_, err := w.Write(out.Bytes())
	return err
}

// Print writes what was found on all nodes: a Problem that nodes share, once.
func (c *Cluster) Print(w io.Writer, f Format) error {
	if f.Output == "json" {
		return text.WriteJSON(w, c)
	}
	examined := 0
	for i := range c.Nodes {
		if c.Nodes[i].Examined {
			examined++
		}
	}
	var out bytes.Buffer
	f.print(&out, len(c.Nodes), c.Nodes)
	fmt.Fprintf(&out, "%d of %s examined: %s\n", examined, text.Counted(len(c.Nodes), "node"), summary(c.Nodes))
	_, err := w.Write(out.Bytes())
	return err
}

// print writes the Problems of Reports, of so many nodes; 0: of the one that this runs on.
func (f Format) print(w *bytes.Buffer, nodes int, reports []Report) {
	var groups problem.Groups
	passed := map[string]int{}
	for i := range reports {
		for _, p := range reports[i].Problems {
			if f.Verbose || p.Severity == problem.Error || p.Severity == problem.Warning {
				groups.Add(reports[i].Node, p)
			}
		}
		for _, check := range reports[i].Passed {
			passed[check]++
		}
	}
	problem.Printer{Color: f.Color, All: f.Verbose, More: "--verbose lists them", Nodes: nodes}.Print(w, groups.Sorted())
	for _, check := range problem.Checks() {
		if passed[check] == 0 || !f.Verbose {
			continue
		}
		fmt.Fprintf(w, "%s: %s\n", text.Paint(f.Color, text.Green, "ok"), check)
		if nodes > 0 {
			fmt.Fprintf(w, "  on %d of %s\n", passed[check], text.Counted(nodes, "node"))
		}
	}
}

func summary(reports []Report) string {
	passed, count := 0, map[problem.Severity]int{}
	for i := range reports {
		passed += len(reports[i].Passed)
		for _, p := range reports[i].Problems {
			if reports[i].Examined {
				count[p.Severity]++
			}
		}
	}
	return fmt.Sprintf("%s passed, %s, %s, %d unknown (--verbose shows why)",
		text.Counted(passed, "check"), text.Counted(count[problem.Error], "error"), text.Counted(count[problem.Warning], "warning"), count[problem.Unknown])
}
