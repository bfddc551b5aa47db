package status

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// View is what somebody who asks on a node gets to see.
type View struct {
	Report
	// Silence is why the agent did not answer; empty: it did, and Report is what it said.
	Silence string `json:"silence,omitempty"`
	// Held is what bears our mark on the node, if there was no agent to tell.
	Held *Held `json:"held,omitempty"`

	now time.Time
}

// Held is what bears our mark on a node.
type Held struct {
	State topology.State `json:"state"`
	Ports int            `json:"ports"`
	// Locked tells that an agent runs, though it doesn't answer.
	Locked bool `json:"locked"`
	// Config is the path of our CNI config, whether it is there or not.
	Config string `json:"config"`
	// Error is why it can't be looked at.
	Error string `json:"error,omitempty"`
}

// Bare tells that nothing on the node bears our mark, and no agent runs there: it may be no node at all.
func (h *Held) Bare() bool {
	return !h.Locked && h.State.CNI == nil && h.State.Masquerade == nil && len(h.State.Routes) == 0 && len(h.State.Addresses) == 0
}

// Answered is the View of an agent's Report.
func Answered(r Report, now time.Time) *View { return &View{Report: r, now: now} }

// Silent is the View of a node whose agent does not answer.
func Silent(why string, held Held, now time.Time) *View {
	nothing := (&Result{}).Report()
	nothing.Conditions = []Condition{} // nobody has looked
	return &View{Report: nothing, Silence: why, Held: &held, now: now}
}

// OK tells that there is nothing to say against this node and its peers.
func (v *View) OK() bool {
	return v.Silence == "" && v.Ready && len(v.Problems) == 0 && v.API.Error == "" &&
		v.Drift.Error == "" && len(v.Drift.Differences) == 0 && !slices.ContainsFunc(v.Peers, bad)
}

func bad(p Peer) bool { return p.State != OK }

// Format is how a View is shown.
type Format struct {
	// Output is one of Outputs.
	Output string
	// Problems leaves out peers that are well.
	Problems bool
	// Color marks states and severities.
	Color bool
}

// Outputs are the values of -o.
var Outputs = []string{"table", "wide", "json", "yaml", "name"}

// Print shows the View.
func (v *View) Print(w io.Writer, f Format) error {
	var out bytes.Buffer
	var err error
	switch f.Output {
	case "json", "yaml":
		err = v.encode(&out, f)
	case "name":
		v.names(&out, f)
	default:
		v.table(&out, f)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(out.Bytes())
	return err
}

// peers are those to show.
func (v *View) peers(f Format) []Peer {
	if !f.Problems {
		return v.Peers
	}
	return nonNil(slices.DeleteFunc(slices.Clone(v.Peers), func(p Peer) bool { return !bad(p) }))
}

func (v *View) encode(w *bytes.Buffer, f Format) error {
	shown := *v
	shown.Peers = v.peers(f)
	encoded, err := text.Encoded(shown, f.Output)
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	_, _ = w.Write(encoded)
	return nil
}

// names gives Nodes as kubectl does, each once.
func (v *View) names(w *bytes.Buffer, f Format) {
	said := map[string]bool{}
	for _, p := range v.peers(f) {
		if !said[p.Node] {
			said[p.Node] = true
			w.WriteString("node/" + text.Printable(p.Node) + "\n")
		}
	}
}
