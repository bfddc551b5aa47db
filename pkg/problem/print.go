package problem

import (
	"fmt"
	"io"

	"github.com/plainroute/plainroute/pkg/text"
)

// Printer writes Problems for people. In place of a Reason that a check of doctor raises it prints
// the check's name.
type Printer struct {
	// Color marks severities.
	Color bool
	// All prints each Problem; otherwise of one Reason the first ten, and a line with More, which
	// names the option that prints the rest.
	All  bool
	More string
	// Nodes is the number of all Nodes, of which a Group names some; 0 for the Problems of one
	// node.
	Nodes int
}

// few is the number of Problems of one Reason, and of Nodes of a Group, that are printed.
const few = 10

var labels = map[Severity]struct{ name, color string }{
	Error: {"error", text.Red}, Warning: {"warning", text.Yellow}, Info: {"info", ""}, Unknown: {"unknown", ""},
}

// Print writes groups in their order, with those of one Reason next to each other. A remediation
// that consecutive groups share is printed once, after the last of them.
func (p Printer) Print(w io.Writer, groups []Group) {
	printed := 0
	for i := range groups {
		g := &groups[i]
		if i == 0 || groups[i-1].Reason != g.Reason {
			printed = 0
		}
		last := i == len(groups)-1 || groups[i+1].Reason != g.Reason
		if printed++; p.All || printed <= few {
			p.group(w, g)
		} else if last {
			fmt.Fprintf(w, "  and %d more of %s: %s\n", printed-few, text.Printable(string(g.Reason)), p.More)
		}
		shared := i < len(groups)-1 && groups[i+1].Remediation == g.Remediation
		if g.Remediation != "" && !shared && (last || p.All || printed <= few) {
			fmt.Fprintf(w, "  remediation%s: %s\n", of(g, g.OwnRemediation), text.Printable(g.Remediation))
		}
	}
}

func (p Printer) group(w io.Writer, g *Group) {
	label := labels[g.Severity]
	shown := g.Problem
	shown.Reason = Reason(CheckOf(g.Reason))
	fmt.Fprintf(w, "%s: %s\n", text.Paint(p.Color, label.color, label.name), text.Printable(shown.String()))
	if p.Nodes > 0 && len(g.Nodes) > 0 {
		fmt.Fprintf(w, "  on %d of %s: %s\n", len(g.Nodes), text.Counted(p.Nodes, "node"), text.Printable(text.Some(g.Nodes, len(g.Nodes), few)))
	}
	if g.Evidence != "" {
		fmt.Fprintf(w, "  evidence%s: %s\n", of(g, g.OwnEvidence), text.Printable(g.Evidence))
	}
}

// of names the Node that evidence or remediation is from, if they differ between Nodes.
func of(g *Group, own bool) string {
	if !own {
		return ""
	}
	return " of " + text.Printable(g.Nodes[0])
}
