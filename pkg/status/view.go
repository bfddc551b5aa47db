package status

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// View is the output of `plainroute status` on a node.
type View struct {
	Report
	// NoReport is the Reason for a missing report, and Message its explanation; empty if there is a
	// report.
	NoReport problem.Reason `json:"noReport,omitempty"`
	Message  string         `json:"message,omitempty"`
	// Leftover is what plainroute has left on a node whose agent does not answer.
	Leftover *Leftover `json:"leftover,omitempty"`

	now time.Time
}

// Leftover has the objects with plainroute's mark on a node.
type Leftover struct {
	State  topology.State `json:"state"`
	Ports  int            `json:"ports"`
	Locked bool           `json:"locked"`          // an agent runs, although it doesn't answer
	Config string         `json:"config"`          // the path of our CNI config, whether it exists or not
	Error  string         `json:"error,omitempty"` // why they can't be read
}

// Empty reports that nothing with our mark is on the node, and no agent runs there: the machine may
// not be a node.
func (h *Leftover) Empty() bool {
	return !h.Locked && h.State.CNI == nil && h.State.Masquerade == nil && len(h.State.Routes) == 0 && len(h.State.Addresses) == 0
}

// NewView returns the View of an agent's Report.
func NewView(r Report, now time.Time) *View { return &View{Report: r, now: now} }

// NoReportView returns the View of a node whose agent does not answer, with a Problem of that.
func NoReportView(why string, leftover Leftover, now time.Time) *View {
	nothing := (&Result{}).Report()
	nothing.Conditions = []Condition{} // none has been checked
	reason, evidence := problem.NotRunning, "No agent runs on this node: no process holds its lock."
	if leftover.Locked {
		reason, evidence = problem.NoAnswer, "An agent runs on this node: a process holds its lock."
	}
	missing := problem.New(reason, problem.Subject{}, "The agent does not answer: %s", why)
	missing.Evidence = evidence
	nothing.Problems = append(nothing.Problems, missing)
	return &View{Report: nothing, NoReport: reason, Message: why, Leftover: &leftover, now: now}
}

// OK reports whether the node and its peers have no problem.
func (v *View) OK() bool {
	return v.NoReport == "" && v.Ready && len(v.Problems) == 0 && v.API.Error == "" &&
		v.Drift.Error == "" && len(v.Drift.Differences) == 0 && !slices.ContainsFunc(v.Peers, bad)
}

func bad(p Peer) bool { return p.State != OK }

// Format selects how a View is printed.
type Format struct {
	Output   string // one of Outputs
	Problems bool   // leaves out peers that are ok
	Color    bool   // marks states and severities
}

// Outputs are the values of -o.
var Outputs = []string{"table", "wide", "json", "yaml", "name"}

// Print writes the View.
func (v *View) Print(w io.Writer, f Format) error {
	var out bytes.Buffer
	switch f.Output {
	case "json", "yaml":
		shown := *v
		shown.Peers = v.peers(f)
		encoded, err := text.Encoded(shown, f.Output)
		if err != nil {
			return fmt.Errorf("encoding the report: %w", err)
		}
		out.Write(encoded)
	case "name":
		v.names(&out, f)
	default:
		v.table(&out, f)
	}
	_, err := w.Write(out.Bytes())
	return err
}

// peers returns the peers to print.
func (v *View) peers(f Format) []Peer {
	if !f.Problems {
		return v.Peers
	}
	return nonNil(slices.DeleteFunc(slices.Clone(v.Peers), func(p Peer) bool { return !bad(p) }))
}

// names writes Nodes as kubectl does, each once.
func (v *View) names(w *bytes.Buffer, f Format) {
	printed := map[string]bool{}
	for _, p := range v.peers(f) {
		if !printed[p.Node] {
			printed[p.Node] = true
			w.WriteString("node/" + text.Printable(p.Node) + "\n")
		}
	}
}

// leftovers writes what plainroute has left on the node.
func (v *View) leftovers(w *bytes.Buffer, f Format) {
	w.WriteString("\nObjects with plainroute's mark on this node:\n")
	if v.Leftover.Error != "" {
		fact(w, "kernel", "can't be read: %s", v.Leftover.Error)
		return
	}
	s := &v.Leftover.State
	var subnets []netip.Prefix
	var rows [][]string
	for _, r := range s.Routes {
		if r.Metric == topology.MetricOwn {
			subnets = append(subnets, r.Dst)
			continue
		}
		rows = append(rows, []string{r.Dst.String(), text.OrNone(r.Via), text.Printable(text.OrNone(r.Dev))})
	}
	bridge, table, config := text.None, text.None, text.None
	if s.Bridge != "" {
		bridge = fmt.Sprintf("%s with %s, addresses: %s", s.Bridge, text.Counted(v.Leftover.Ports, "port"), text.List(s.Addresses, ", "))
	}
	if s.Masquerade != nil {
		table = fmt.Sprintf("inet %s, masquerading %s", topology.Table, text.List(s.Masquerade.Sources, ", "))
	}
	if c := s.CNI; c != nil {
		config = fmt.Sprintf("%s: subnets %s, MTU %d, bridge %s", v.Leftover.Config, text.List(c.Subnets, ", "), c.MTU, c.Bridge)
	}
	fact(w, "subnets", "%s", text.List(subnets, ", "))
	fact(w, "bridge", "%s", bridge)
	fact(w, "table", "%s", table)
	fact(w, "CNI config", "%s", config)
	fact(w, "routes", "%d to peers", len(rows))
	if len(rows) == 0 || f.Problems {
		return
	}
	w.WriteByte('\n')
	text.Table(w, text.Gap, []string{"SUBNET", "NEXT-HOP", "DEV"}, rows, nil)
}
