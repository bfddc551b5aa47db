package problem

import (
	"fmt"
	"io"
	"regexp"

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
	// Max is the number of Groups that are printed at most; 0: all.
	Max int
	// Nodes is the number of all Nodes, of which a Group names some; 0 for the Problems of one
	// node.
	Nodes int
	// Prefix begins each line.
	Prefix string
	// Program replaces plainroute in the commands of remediations, such as kubectl plainroute; empty:
	// it does not.
	Program string
}

var commands = regexp.MustCompile(`\b(?:kubectl )?plainroute (status|doctor|check|plan|cleanup|uninstall)\b`)

// few is the number of Problems of one Reason, and of Nodes of a Group, that are printed.
const few = 10

var labels = map[Severity]struct{ name, color string }{
	Error: {"error", text.Red}, Warning: {"warning", text.Yellow}, Info: {"info", ""}, Unknown: {"unknown", ""},
}

// Section writes groups under a title, after an empty line; without groups it writes nothing.
func (p Printer) Section(w io.Writer, title string, groups []Group) {
	if len(groups) > 0 {
		fmt.Fprintf(w, "\n%s (%d)\n", title, len(groups))
		p.Print(w, groups)
	}
}

// Print writes groups in their order, with those of one Reason next to each other. A remediation
// that consecutive groups share is printed once, after the last of them.
func (p Printer) Print(w io.Writer, groups []Group) {
	rest := 0
	if p.Max > 0 && len(groups) > p.Max {
		groups, rest = groups[:p.Max], len(groups)-p.Max
	}
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
			p.line(w, "  %s: %s", text.More(printed-few, "of "+string(g.Reason)), p.More)
		}
		shared := i < len(groups)-1 && groups[i+1].Remediation == g.Remediation
		if g.Remediation != "" && !shared && (last || p.All || printed <= few) {
			p.line(w, "  remediation%s: %s", of(g, g.OwnRemediation), p.named(g.Remediation))
		}
	}
	if rest > 0 {
		p.line(w, "%s: %s", text.More(rest, ""), p.More)
	}
}

func (p Printer) group(w io.Writer, g *Group) {
	label := labels[g.Severity]
	shown := g.Problem
	shown.Reason = Reason(CheckOf(g.Reason))
	fmt.Fprintf(w, "%s%s: %s\n", p.Prefix, text.Paint(p.Color, label.color, label.name), text.Printable(shown.String()))
	if p.Nodes > 0 && len(g.Nodes) > 0 {
		p.line(w, "  on %d of %s: %s", len(g.Nodes), text.Counted(p.Nodes, "node"), text.Some(g.Nodes, len(g.Nodes), few))
	}
	if g.Evidence != "" {
		p.line(w, "  evidence%s: %s", of(g, g.OwnEvidence), g.Evidence)
	}
}

func (p Printer) line(w io.Writer, format string, args ...any) {
	fmt.Fprintln(w, p.Prefix+text.Printable(fmt.Sprintf(format, args...)))
}

// named returns a remediation whose commands have the name of the program.
func (p Printer) named(remediation string) string {
	if p.Program == "" {
		return remediation
	}
	return commands.ReplaceAllString(remediation, p.Program+" $1")
}

// of names the Node that evidence or remediation is from, if they differ between Nodes.
func of(g *Group, own bool) string {
	if !own {
		return ""
	}
	return " of " + g.Nodes[0]
}

// Line returns a Problem and its remediation on one line of at most limit bytes, of which the message
// is shortened. more is the number of further Problems of its Reason.
func (p Problem) Line(more, limit int) string {
	p = p.Complete()
	rest := ""
	if more > 0 {
		rest = " (" + text.More(more, "of this kind") + ")"
	}
	if p.Remediation != "" {
		rest += ". Remediation: " + text.Printable(p.Remediation)
	}
	return text.Shorten(text.Printable(p.Message), limit-len(rest)) + rest
}
