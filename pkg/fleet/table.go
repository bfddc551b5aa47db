package fleet

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
)

// Format selects how a Cluster is printed. Problems leaves out Nodes without problems.
type Format = status.Format

// Outputs are the values of -o.
var Outputs = []string{"table", "wide", "matrix", "json", "yaml", "name"}

// Print writes the Cluster.
func (c *Cluster) Print(w io.Writer, f Format) error {
	var out bytes.Buffer
	switch f.Output {
	case "json", "yaml":
		return c.encode(w, f)
	case "name":
		for _, row := range c.shown(f) {
			out.WriteString("node/" + row.Node + "\n")
		}
	case "matrix":
		c.matrix(&out, f)
	default:
		c.table(&out, f)
		if f.Output == "wide" && !f.Problems {
			out.WriteByte('\n')
			c.matrix(&out, f)
		}
		c.printProblems(&out, f)
		fmt.Fprintf(&out, "\n%s\n", c.summary())
	}
	_, err := w.Write(out.Bytes())
	return err
}

// shown returns the Nodes to print.
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
			bad.Routes = nil // their positions are those of all Nodes
			shown.Nodes = append(shown.Nodes, bad)
		}
	}
	encoded, err := text.Encoded(shown, f.Output)
	if err != nil {
		return fmt.Errorf("encoding the fleet status: %w", err)
	}
	_, err = w.Write(encoded)
	return err
}

func (c *Cluster) table(w *bytes.Buffer, f Format) {
	rows := c.shown(f)
	if len(rows) == 0 {
		return
	}
	header := []string{"NODE", "READY", "PEERS-OK", "PROBLEMS", "DRIFT", "VERSION", "AGE", "LAST-PASS"}
	if f.Output == "wide" {
		header = append(header, "SUBNETS", "ADDRESSES", "UPLINKS", "MTU", "AGENT")
	}
	cells := make([][]string, len(rows))
	for i, row := range rows {
		cells[i] = row.columns(c.Time)
		if f.Output == "wide" {
			cells[i] = append(cells[i], row.wideColumns()...)
		}
	}
	text.Table(w, text.Gap, header, cells, func(i int, line string) string { return text.Paint(f.Color, rows[i].color(), line) })
}

func (r *Row) columns(now time.Time) []string {
	started := text.None
	if r.Agent != nil && !r.Agent.Started.IsZero() {
		started = text.Age(now, r.Agent.Started)
	}
	if r.Report == nil {
		return []string{r.Node, string(r.NoReport), text.None, text.None, text.None, text.None, started, text.None}
	}
	ready := map[bool]string{true: "yes", false: "no"}[r.Report.Ready]
	drift := text.None
	switch {
	case r.Report.Drift.Error != "":
		drift = "?"
	case !r.Report.Drift.Time.IsZero():
		drift = strconv.Itoa(r.Count.Drift)
	}
	return []string{
		r.Node, ready, fmt.Sprintf("%d/%d", r.Count.OK, r.Count.Peers), strconv.Itoa(r.Count.Problems), drift,
		cmp.Or(text.Printable(r.Report.Version), text.None), started, text.Age(now, r.Report.Pass.Time),
	}
}

// wideColumns returns the additional columns of -o wide.
func (r *Row) wideColumns() []string {
	agent := text.None
	if r.Agent != nil {
		agent = r.Agent.Namespace + "/" + r.Agent.Pod
	}
	subnets := text.List(r.Subnets, ",")
	if r.Report == nil {
		return []string{subnets, text.None, text.None, text.None, agent}
	}
	host := &r.Report.Host
	var uplinks []string
	for _, u := range host.Uplinks {
		uplinks = append(uplinks, fmt.Sprintf("%s(%d)", text.Printable(u.Name), u.MTU))
	}
	return []string{subnets, text.List(host.Addresses, ","), text.List(uplinks, ","), text.OrNone(host.MTU), agent}
}

// maxGroups is how many Groups are printed.
const maxGroups = 60

// printProblems writes the Problems of the Nodes and those of the cluster.
func (c *Cluster) printProblems(w io.Writer, f Format) {
	printer := problem.Printer{Color: f.Color, More: "-o json lists them", Max: maxGroups, Nodes: len(c.Nodes)}
	printer.Section(w, "PROBLEMS", c.Groups())
	printer.Section(w, "BETWEEN NODES", c.Problems)
}

// summary summarizes the cluster on one line.
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
	case bad > 0:
		verdict = "something is wrong on " + text.Counted(bad, "node")
	case !c.OK():
		verdict = "something is wrong between nodes"
	}
	return fmt.Sprintf("%s, %s answered, %d of %d routes: %s", text.Counted(len(c.Nodes), "node"), text.Counted(answers, "agent"), ok, routes, verdict)
}

func (r *Row) color() string {
	switch {
	case r.OK():
		return ""
	case r.Report != nil && r.Report.Ready:
		return text.Yellow
	}
	return text.Red
}
