package connectivity

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
)

// Targets other than the test's pods.
const (
	Nodes    = "node"
	Services = "Service"
	Names    = "DNS"
	Outside  = "outside"
)

// Result is the outcome of a test.
type Result struct {
	metav1.TypeMeta `json:",inline"`
	Nodes           []string           `json:"nodes"`             // those that took part, sorted
	Absent          []problem.Problem  `json:"-"`                 // one for each node that could not take part
	Sampled         bool               `json:"sampled,omitempty"` // there are more nodes than were tested
	Probes          int                `json:"probes"`            // how many were made
	Failed          []Failure          `json:"failed"`            // the probes that failed
	Skipped         []string           `json:"skipped,omitempty"` // the parts that were not tested, with the reason
	Program         string             `json:"-"`                 // the name by which the test was called; empty: plainroute
	tried           map[[2]string]bool // by row and column of the matrix
}

// Failure is a probe that failed.
type Failure struct {
	From   string `json:"from"`   // a node
	Target string `json:"target"` // a node or one of the constants above
	Probe
	Error      string `json:"error"`
	Translated bool   `json:"translated,omitempty"` // it arrived with another source address
}

// OK reports whether all probes arrived from all nodes.
func (r *Result) OK() bool { return len(r.Failed) == 0 && len(r.Absent) == 0 }

// MarshalJSON adds apiVersion, kind and all Problems.
func (r *Result) MarshalJSON() ([]byte, error) {
	type plain Result
	full := struct {
		plain
		Problems []problem.Problem `json:"problems"`
	}{plain(*r), append([]problem.Problem{}, r.problems()...)}
	full.TypeMeta = status.TypeMeta("ConnectivityReport")
	full.Failed = append([]Failure{}, r.Failed...)
	return json.Marshal(full)
}

// problems returns a Problem for each failed probe, for each node that could not take part, and for
// what the failures have in common.
func (r *Result) problems() []problem.Problem {
	var list []problem.Problem
	for _, f := range r.Failed {
		reason := problem.ProbeFailed
		if f.Translated {
			reason = problem.SourceTranslated
		}
		list = append(list, problem.New(reason, problem.Node(f.From), "to %s: %s to %s: %s", f.Target, kinds[f.Kind].name, f.To, f.Error))
	}
	return slices.Concat(list, r.Absent, r.inCommon())
}

// nodeAbsent returns the Problem of a node that could not take part.
func nodeAbsent(node, why, remediation string) problem.Problem {
	p := problem.New(problem.NodeAbsent, problem.Node(node), "%s", why)
	p.Remediation = remediation
	return p
}

func (r *Result) add(from, target string, p Probe, o Outcome) {
	r.Probes++
	if r.tried == nil {
		r.tried = map[[2]string]bool{}
	}
	r.tried[[2]string{from, column(target)}] = true
	// A Service may select the sending pod itself, which then sees another source.
	if message := o.Problem(target == Services); message != "" {
		r.Failed = append(r.Failed, Failure{from, target, p, message, o.Error == ""})
	}
}

func (r *Result) sort() {
	slices.SortFunc(r.Failed, func(a, b Failure) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.Target, b.Target), strings.Compare(a.To, b.To), strings.Compare(string(a.Kind), string(b.Kind)))
	})
}

// Print writes the matrix of nodes, the problems, and a summary.
func (r *Result) Print(w io.Writer) error {
	var b strings.Builder
	r.matrix(&b)
	r.printProblems(&b)
	for _, s := range r.Skipped {
		fmt.Fprintf(&b, "Not tested: %s.\n", s)
	}
	if r.Sampled {
		fmt.Fprintf(&b, "A random sample of %d nodes was tested.\n", len(r.Nodes))
	}
	verdict := "all is well"
	if len(r.Failed) > 0 {
		verdict = fmt.Sprintf("%d failed", len(r.Failed))
	}
	if len(r.Absent) > 0 {
		verdict += fmt.Sprintf("; %s could not take part", text.Counted(len(r.Absent), "node"))
	}
	fmt.Fprintf(&b, "%s, %s: %s\n", text.Counted(len(r.Nodes), "node"), text.Counted(r.Probes, "probe"), verdict)
	_, err := io.WriteString(w, b.String())
	return err
}

// maxMatrix is the largest number of nodes in a matrix; of more it has those with failures.
const maxMatrix = 40

// matrix writes a row and a column for each node: . for success, a letter for a failure, else -.
func (r *Result) matrix(b *strings.Builder) {
	shown := r.Nodes
	if len(shown) > maxMatrix {
		shown = slices.DeleteFunc(slices.Clone(shown), func(n string) bool {
			return !slices.ContainsFunc(r.Failed, func(f Failure) bool { return f.From == n || f.Target == n })
		})
		shown = shown[:min(len(shown), maxMatrix)]
	}
	cells := map[[2]string]string{}
	for _, f := range r.Failed {
		at, letter := [2]string{f.From, column(f.Target)}, kinds[f.Kind].letter
		if f.Translated {
			letter = "n"
		}
		if have, ok := cells[at]; !ok || strings.Index(letterOrder, letter) < strings.Index(letterOrder, have) {
			cells[at] = letter
		}
	}
	others := []string{Nodes, Services, Names, Outside}
	header, rows := []string{"FROM \\ TO"}, make([][]string, len(shown))
	for i, from := range shown {
		header = append(header, strconv.Itoa(i+1))
		rows[i] = []string{fmt.Sprintf("%d %s", i+1, from)}
		for _, to := range slices.Concat(shown, others) {
			cell := text.None
			if at := [2]string{from, to}; r.tried[at] {
				cell = cmp.Or(cells[at], ".")
			}
			rows[i] = append(rows[i], cell)
		}
	}
	text.Table(b, 1, append(header, others...), rows, nil)
	b.WriteString("\n")
}

// column returns the column of a target; the nodes' own addresses share one.
func column(target string) string {
	sort, _, _ := strings.Cut(target, " ")
	return sort
}

// letterOrder has the letters of a matrix, the most informative first.
const letterOrder = "xtunmfb"

// kinds has the letter of each kind in a matrix, and its name.
var kinds = map[Kind]struct{ letter, name string }{
	TCP: {"t", "a request by TCP"}, UDP: {"u", "a datagram"}, MTU: {"m", "a datagram as large as the MTU"}, Large: {"f", "a datagram in fragments"},
	Bulk: {"b", "bulk data by TCP"}, Reach: {"x", "a connection"}, Name: {"x", "a name"},
}

// printProblems writes the Problems.
func (r *Result) printProblems(b *strings.Builder) {
	if len(r.Failed) > 0 {
		b.WriteString("t: TCP, u: UDP, m: as large as the MTU, f: fragments, b: bulk data by TCP, n: source translated, x: not reached\n\n")
	}
	problem.Printer{More: "-o json lists them", Program: r.Program}.Print(b, problem.Grouped(r.problems()))
	if !r.OK() {
		b.WriteString("\n")
	}
}
