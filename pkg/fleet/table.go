package fleet

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/plainroute/plainroute/pkg/status"
)

// Format is how a Cluster is shown.
type Format struct {
	// Output is one of Outputs.
	Output string
	// Problems leaves out Nodes with nothing to say against them.
	Problems bool
	// Colour marks what is good and bad.
	Colour bool
}

// Outputs are the values of -o.
var Outputs = []string{"table", "wide", "matrix", "json", "yaml", "name"}

// Print shows the Cluster.
func (c *Cluster) Print(w io.Writer, f Format) error {
	switch f.Output {
	case "json", "yaml":
		return c.encode(w, f)
	case "name":
		return c.printNames(w, f)
	}
	var text bytes.Buffer
	if f.Output == "matrix" {
		c.matrix(&text, f)
		_, err := w.Write(text.Bytes())
		return err
	}
	if err := c.table(&text, f); err != nil {
		return err
	}
	if f.Output == "wide" && !f.Problems {
		text.WriteByte('\n')
		c.matrix(&text, f)
	}
	c.printBlocks(&text)
	fmt.Fprintf(&text, "\n%s\n", c.summary())
	_, err := w.Write(text.Bytes())
	return err
}

// shown are the Nodes to show.
func (c *Cluster) shown(f Format) []*Row {
	var rows []*Row
	for i := range c.Nodes {
		if !f.Problems || !c.Nodes[i].OK() {
			rows = append(rows, &c.Nodes[i])
		}
	}
	return rows
}

func (c *Cluster) encode(w io.Writer, f Format) error {
	shown := *c
	if f.Problems {
		shown.Nodes = []Row{}
		for _, row := range c.shown(f) {
			bad := *row
			bad.Routes = nil // it has a place for each Node, and here are but some
			shown.Nodes = append(shown.Nodes, bad)
		}
	}
	text, err := status.Encoded(shown, f.Output)
	if err != nil {
		return fmt.Errorf("encoding what the agents said: %w", err)
	}
	_, err = w.Write(text)
	return err
}

func (c *Cluster) printNames(w io.Writer, f Format) error {
	var text strings.Builder
	for _, row := range c.shown(f) {
		text.WriteString("node/" + row.Node + "\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func (c *Cluster) table(w io.Writer, f Format) error {
	rows := c.shown(f)
	if len(rows) == 0 {
		return nil
	}
	var plain bytes.Buffer
	columns := tabwriter.NewWriter(&plain, 0, 0, 3, ' ', 0)
	header := []string{"NODE", "READY", "PEERS-OK", "PROBLEMS", "DRIFT", "VERSION", "AGE", "LAST-PASS"}
	if f.Output == "wide" {
		header = append(header, "SUBNETS", "ADDRESSES", "UPLINKS", "MTU", "AGENT")
	}
	fmt.Fprintln(columns, strings.Join(header, "\t"))
	for _, row := range rows {
		fields := row.fields(c.Time)
		if f.Output == "wide" {
			fields = append(fields, row.more()...)
		}
		fmt.Fprintln(columns, strings.Join(fields, "\t"))
	}
	if err := columns.Flush(); err != nil {
		return err
	}
	lines := strings.SplitAfter(plain.String(), "\n")
	fmt.Fprint(w, lines[0])
	for i, row := range rows {
		fmt.Fprint(w, f.paint(row.colour(), strings.TrimRight(lines[i+1], " \n"))+"\n")
	}
	return nil
}

// none stands for what is not known.
const none = "-"

func (r *Row) fields(now time.Time) []string {
	started := none
	if r.Agent != nil && !r.Agent.Started.IsZero() {
		started = age(now, r.Agent.Started)
	}
	if r.Report == nil {
		return []string{r.Node, string(r.Silence), none, none, none, none, started, none}
	}
	ready := map[bool]string{true: "yes", false: "no"}[r.Report.Ready]
	drift := none
	if !r.Report.Drift.Time.IsZero() {
		drift = strconv.Itoa(r.Count.Drift)
	}
	if r.Report.Drift.Error != "" {
		drift = "?"
	}
	return []string{
		r.Node, ready, fmt.Sprintf("%d/%d", r.Count.OK, r.Count.Peers), strconv.Itoa(r.Count.Problems), drift,
		cmp.Or(status.Printable(r.Report.Version), none), started, age(now, r.Report.Pass.Time),
	}
}

// more are the fields of the wide table.
func (r *Row) more() []string {
	agent := none
	if r.Agent != nil {
		agent = r.Agent.Namespace + "/" + r.Agent.Pod
	}
	subnets := cmp.Or(strings.Join(r.Subnets, ","), none)
	if r.Report == nil {
		return []string{subnets, none, none, none, agent}
	}
	host := &r.Report.Host
	var uplinks []string
	for _, u := range host.Uplinks {
		uplinks = append(uplinks, fmt.Sprintf("%s(%d)", status.Printable(u.Name), u.MTU))
	}
	mtu := none
	if host.MTU != 0 {
		mtu = strconv.Itoa(host.MTU)
	}
	return []string{subnets, cmp.Or(join(host.Addresses), none), cmp.Or(strings.Join(uplinks, ","), none), mtu, agent}
}

func join(addresses []netip.Addr) string {
	var list []string
	for _, a := range addresses {
		list = append(list, a.String())
	}
	return strings.Join(list, ",")
}

// age is as kubectl writes it. Clocks differ: what was in the future was just now.
func age(now, then time.Time) string {
	if then.IsZero() {
		return none
	}
	return duration.HumanDuration(max(now.Sub(then), 0))
}

// maxLines is how many lines are shown of what Nodes complain of.
const maxLines = 60

// printBlocks says what is wrong, the most common first, and what to do about it, once each.
func (c *Cluster) printBlocks(w io.Writer) {
	left, lines := 0, 0
	said := map[string]bool{"": true}
	for _, b := range c.Blocks() {
		if lines > maxLines {
			left += len(b.Lines)
			continue
		}
		lines += len(b.Lines)
		fmt.Fprintf(w, "\n%s:\n", some(b.Nodes, len(b.Nodes)))
		for i, line := range b.Lines {
			fmt.Fprintf(w, "  %s\n", line.Text)
			if last := i == len(b.Lines)-1 || b.Lines[i+1].Advice != line.Advice; last && !said[line.Advice] {
				said[line.Advice] = true
				fmt.Fprintf(w, "    -> %s\n", line.Advice)
			}
		}
	}
	if left > 0 {
		fmt.Fprintf(w, "\nand %d complaints more: -o json has them\n", left)
	}
	if len(c.Faults) == 0 {
		return
	}
	fmt.Fprint(w, "\nAll agents together:\n")
	for i, f := range c.Faults {
		if i == maxLines {
			fmt.Fprintf(w, "  and %d more: -o json has them\n", len(c.Faults)-i)
			return
		}
		fmt.Fprintf(w, "  %s\n", status.Printable(f.Detail))
		if last := i == len(c.Faults)-1 || c.Faults[i+1].Kind != f.Kind; last {
			fmt.Fprintf(w, "    -> %s\n", f.Advice)
		}
	}
}

// summary is the whole in a line.
func (c *Cluster) summary() string {
	answers, bad, ok, routes := 0, 0, 0, 0
	for i := range c.Nodes {
		if c.Nodes[i].Report != nil {
			answers++
		}
		if !c.Nodes[i].OK() {
			bad++
		}
		ok, routes = ok+c.Nodes[i].Count.OK, routes+c.Nodes[i].Count.Peers
	}
	verdict := "all is well"
	switch {
	case bad == 1:
		verdict = "something is wrong on 1 node"
	case bad > 1:
		verdict = fmt.Sprintf("something is wrong on %d nodes", bad)
	case !c.OK():
		verdict = "something is wrong between nodes"
	}
	return fmt.Sprintf("%s, %s answered, %d of %d routes: %s", status.Counted(len(c.Nodes), "node"), status.Counted(answers, "agent"), ok, routes, verdict)
}

// The colours of a terminal, by ECMA-48's SGR.
const (
	red    = "31"
	yellow = "33"
)

func (r *Row) colour() string {
	switch {
	case r.OK():
		return ""
	case r.Report != nil && r.Report.Ready:
		return yellow
	}
	return red
}

func (f Format) paint(colour, text string) string {
	if !f.Colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}
