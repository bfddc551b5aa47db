package connectivity

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/plainroute/plainroute/pkg/status"
)

// What is reached that is no pod of the test.
const (
	Nodes    = "node"
	Services = "Service"
	Names    = "DNS"
	World    = "outside"
)

// Result is what came of a test.
type Result struct {
	// Nodes are those that took part, sorted.
	Nodes []string `json:"nodes"`
	// Absent are those that should have and could not.
	Absent []Absence `json:"absent,omitempty"`
	// Drawn tells that there are more.
	Drawn bool `json:"drawn,omitempty"`
	// Probes is how many were made.
	Probes int `json:"probes"`
	// Faults are those that failed.
	Faults []Fault `json:"faults"`
	// Skipped is what was not tried, and why.
	Skipped []string `json:"skipped,omitempty"`

	// Program is how it was called that made the test: what is to be called next is it too.
	Program string `json:"-"`

	tried map[[2]string]bool // by row and column of the matrix
}

// Fault is a probe that failed.
type Fault struct {
	// From is a node, Target a node or one of the words above.
	From   string `json:"from"`
	Target string `json:"target"`
	Probe
	Error string `json:"error"`
	// Translated tells that it arrived, and not as from whom it came.
	Translated bool `json:"translated,omitempty"`
}

// OK tells that all is well.
func (r *Result) OK() bool { return len(r.Faults) == 0 && len(r.Absent) == 0 }

// MarshalJSON makes an empty list of none.
func (r *Result) MarshalJSON() ([]byte, error) {
	type plain Result
	if r.Faults == nil {
		r.Faults = []Fault{}
	}
	return json.Marshal((*plain)(r))
}

func (r *Result) add(from, target string, p Probe, o Outcome) {
	r.Probes++
	if r.tried == nil {
		r.tried = map[[2]string]bool{}
	}
	r.tried[[2]string{from, column(target)}] = true
	// A Service may hand a pod's packet to the pod itself, which then sees another source.
	if fault := o.Fault(target == Services); fault != "" {
		r.Faults = append(r.Faults, Fault{from, target, p, fault, o.Error == ""})
	}
}

func (r *Result) sort() {
	slices.SortFunc(r.Faults, func(a, b Fault) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.Target, b.Target), strings.Compare(a.To, b.To), strings.Compare(string(a.Kind), string(b.Kind)))
	})
}

// Print writes the matrix of nodes, what else was reached, and the faults in words.
func (r *Result) Print(w io.Writer) error {
	var b strings.Builder
	r.matrix(&b)
	r.faults(&b)
	r.absent(&b)
	for _, s := range r.Skipped {
		fmt.Fprintf(&b, "Not tried: %s.\n", s)
	}
	if r.Drawn {
		fmt.Fprintf(&b, "%d nodes were drawn of more.\n", len(r.Nodes))
	}
	verdict := "all is well"
	if len(r.Faults) > 0 {
		verdict = fmt.Sprintf("%d failed", len(r.Faults))
	}
	if len(r.Absent) > 0 {
		verdict += fmt.Sprintf("; %s could not take part", status.Counted(len(r.Absent), "node"))
	}
	fmt.Fprintf(&b, "%s, %s: %s\n", status.Counted(len(r.Nodes), "node"), status.Counted(r.Probes, "probe"), verdict)
	_, err := io.WriteString(w, b.String())
	return err
}

// wide is how many nodes a matrix has at most; of more, those with a fault.
const wide = 40

// matrix has a row and a column for each node: . is well, a letter what is not, and - what was not tried.
func (r *Result) matrix(b *strings.Builder) {
	shown := r.Nodes
	if len(shown) > wide {
		shown = slices.DeleteFunc(slices.Clone(shown), func(n string) bool {
			return !slices.ContainsFunc(r.Faults, func(f Fault) bool { return f.From == n || f.Target == n })
		})
		shown = shown[:min(len(shown), wide)]
	}
	cells := map[[2]string]string{}
	for _, f := range r.Faults {
		at, letter := [2]string{f.From, column(f.Target)}, letters[f.Kind]
		if f.Translated {
			letter = "n"
		}
		if have, ok := cells[at]; !ok || strings.Index(basicFirst, letter) < strings.Index(basicFirst, have) {
			cells[at] = letter
		}
	}
	table := tabwriter.NewWriter(b, 0, 0, 1, ' ', 0)
	fmt.Fprint(table, "FROM \\ TO")
	for i := range shown {
		fmt.Fprint(table, "\t"+strconv.Itoa(i+1))
	}
	others := []string{Nodes, Services, Names, World}
	fmt.Fprintln(table, "\t"+strings.Join(others, "\t"))
	for i, from := range shown {
		fmt.Fprintf(table, "%d %s", i+1, from)
		for _, to := range append(slices.Clone(shown), others...) {
			at := [2]string{from, to}
			cell := "-"
			if r.tried[at] {
				cell = cmp.Or(cells[at], ".")
			}
			fmt.Fprint(table, "\t"+cell)
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush()
	b.WriteString("\n")
}

// column puts all nodes' own addresses into one.
func column(target string) string {
	if strings.HasPrefix(target, Nodes+" ") {
		return Nodes
	}
	return target
}

// basicFirst are the letters of a matrix: of several faults the first tells most.
const basicFirst = "xtunmfb"

// letters stand for what failed.
var letters = map[Kind]string{TCP: "t", UDP: "u", MTU: "m", Large: "f", Bulk: "b", Reach: "x", Name: "x"}

// words say what failed.
var words = map[Kind]string{
	TCP: "a request by TCP", UDP: "a datagram", MTU: "a datagram as large as the MTU", Large: "a datagram in fragments",
	Bulk: "much by TCP", Reach: "a connection", Name: "a name",
}

// most is how many faults are told.
const most = 20

func (r *Result) faults(b *strings.Builder) {
	if len(r.Faults) == 0 {
		return
	}
	b.WriteString("t: TCP, u: UDP, m: as large as the MTU, f: fragments, b: much by TCP, n: source translated, x: not reached\n\n")
	for i, f := range r.Faults {
		if i == most {
			fmt.Fprintf(b, "and %d more (-o json has all)\n", len(r.Faults)-most)
			break
		}
		fmt.Fprintf(b, "from %s to %s: %s to %s: %s\n", f.From, f.Target, words[f.Kind], f.To, status.Printable(f.Error))
	}
	fmt.Fprintf(b, "\n%s\n\n", r.advice())
}

// absent names the nodes that could not take part. What they say of themselves is
// theirs, and not for the terminal to obey.
func (r *Result) absent(b *strings.Builder) {
	for i, a := range r.Absent {
		if i == most {
			fmt.Fprintf(b, "and %d more nodes (-o json has all)\n", len(r.Absent)-most)
			break
		}
		fmt.Fprintf(b, "Node %s could not take part: %s\n", a.Node, status.Printable(a.Why))
		if a.Cure != "" && (i+1 == len(r.Absent) || i+1 == most || r.Absent[i+1].Cure != a.Cure) { // what is said of many is said once
			fmt.Fprintf(b, "  cure: %s\n", a.Cure)
		}
	}
	if len(r.Absent) > 0 {
		b.WriteString("\n")
	}
}
