package finding

import (
	"fmt"
	"io"
	"strings"

	"github.com/plainroute/plainroute/pkg/status"
)

// Format is how findings are shown.
type Format struct {
	// Output is table or json.
	Output string
	// Verbose shows also what is well, and what was skipped.
	Verbose bool
	// Colour is for terminals.
	Colour bool
}

func (f Format) shows(v Verdict) bool { return f.Verbose || v == Failure || v == Warning }

// Print shows what was found on one node.
func Print(w io.Writer, found []Finding, format Format) error {
	if format.Output == "json" {
		return status.WriteJSON(w, found)
	}
	var b strings.Builder
	for _, f := range found {
		if format.shows(f.Verdict) {
			format.head(&b, f)
			part(&b, "evidence", f.Evidence)
			part(&b, "cure", f.Cure)
		}
	}
	fmt.Fprintf(&b, "%s\n", summary(found))
	_, err := io.WriteString(w, b.String())
	return err
}

// Print shows what was found on all nodes: what nodes share, once.
func (c *Cluster) Print(w io.Writer, format Format) error {
	if format.Output == "json" {
		return status.WriteJSON(w, c)
	}
	var b strings.Builder
	for _, g := range c.fold() {
		if !format.shows(g.Verdict) {
			continue
		}
		format.head(&b, g.Finding)
		part(&b, "on", c.share(g.nodes))
		part(&b, "evidence"+g.of(g.ownEvidence), g.Evidence)
		part(&b, "cure"+g.of(g.ownCure), g.Cure)
	}
	var all []Finding
	answered := 0
	for _, n := range c.Nodes {
		all = append(all, n.Findings...)
		if n.Silence == "" {
			answered++
		}
	}
	for _, g := range c.silences(false) {
		fmt.Fprintf(&b, "%s: %s\n", format.paint("31", "not examined"), status.Printable(g.Fault))
		part(&b, "on", c.share(g.nodes))
		part(&b, "cure", g.Cure)
	}
	for _, g := range c.silences(true) {
		if format.Verbose {
			fmt.Fprintf(&b, "left out: %s\n", status.Printable(g.Fault))
			part(&b, "on", c.share(g.nodes))
		}
	}
	fmt.Fprintf(&b, "%d of %d nodes examined: %s\n", answered, len(c.Nodes), summary(all))
	_, err := io.WriteString(w, b.String())
	return err
}

func summary(found []Finding) string {
	count := map[Verdict]int{}
	for _, f := range found {
		count[f.Verdict]++
	}
	return fmt.Sprintf("%s passed, %s, %s, %d skipped (--verbose says why)",
		status.Counted(count[OK], "check"), status.Counted(count[Failure], "failure"), status.Counted(count[Warning], "warning"), count[Skipped])
}

// of says whose evidence or cure it is, where others have others.
func (g *group) of(own bool) string {
	if !own {
		return ""
	}
	return " of " + g.nodes[0]
}

// share tells how many nodes have something, and names them: as many as fit a line or two.
func (c *Cluster) share(names []string) string {
	const few = 10
	text := strings.Join(names[:min(few, len(names))], ", ")
	if len(names) > few {
		text += fmt.Sprintf(" and %d more", len(names)-few)
	}
	return fmt.Sprintf("%d of %d nodes: %s", len(names), len(c.Nodes), text)
}

// head is the line that tells the fault.
func (f Format) head(b *strings.Builder, found Finding) {
	colours := map[Verdict]string{Failure: "31", Warning: "33", OK: "32"}
	fmt.Fprintf(b, "%s: %s", f.paint(colours[found.Verdict], status.Printable(string(found.Verdict))), status.Printable(found.Check))
	if found.Fault != "" {
		b.WriteString(": " + status.Printable(found.Fault))
	}
	b.WriteString("\n")
}

func (f Format) paint(colour, text string) string {
	if !f.Colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func part(b *strings.Builder, name, text string) {
	if text != "" {
		fmt.Fprintf(b, "  %s: %s\n", status.Printable(name), status.Printable(text))
	}
}
