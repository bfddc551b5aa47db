package uninstall

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Row tells how it went on a node.
type Row struct {
	Node string `json:"node"`
	// Clean tells that nothing of ours is left but what is kept.
	Clean bool `json:"clean"`
	// Gone tells that the Node was deleted meanwhile.
	Gone bool `json:"gone,omitempty"`
	// Error is why it is not clean.
	Error string `json:"error,omitempty"`
	cleanup.Summary
}

// Rows are of all nodes, sorted by name.
type Rows []Row

// rows makes them of what was seen; nodes are those that there are now.
func (f *follower) rows(nodes map[string]*corev1.Node) Rows {
	rows := make(Rows, 0, len(f.visits))
	for name, v := range f.visits {
		row := Row{Node: name, Clean: v.stage == clean, Summary: v.summary}
		switch {
		case !row.Clean && f.interrupted && v.ended == nil:
			row.Error = "interrupted before it could say whether it is clean"
		case !row.Clean:
			row.Error, row.Gone = v.why(nodes[name]), nodes[name] == nil
		case row.Refused: // in a dry run
			row.Error = "it would be refused now: " + v.summary.Error
		}
		row.Summary.Error = ""
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Node, b.Node) })
	return rows
}

// manyNames are as many as an error names.
const manyNames = 20

// refused tells that an agent runs on the node: a cleanup by force refuses for nothing else.
func (r Row) refused() bool { return !r.Clean && !r.Gone && r.Refused }

// err names the nodes that are left, nil: none. It is cleanup.ErrRefused if agents run on
// all of them. Agents are whose those are that made
// nodes refuse, if that is known.
func (rows Rows) err(agents string) error {
	var names []string
	refused := 0
	for _, r := range rows {
		if !r.Clean && !r.Gone {
			names = append(names, r.Node)
		}
		if r.refused() {
			refused++
		}
	}
	n := len(names)
	if n == 0 {
		return nil
	}
	if n > manyNames {
		names = append(names[:manyNames], fmt.Sprintf("and %d more", n-manyNames))
	}
	next := "once they can be, run `plainroute uninstall` again, or `plainroute cleanup --force` on each"
	switch {
	case refused > 0 && agents != "":
		next = fmt.Sprintf("agents run on %d of them, of %s: remove that first, then run `plainroute uninstall` again", refused, agents)
	case refused > 0:
		next = fmt.Sprintf("agents run on %d of them: remove those first (kubectl get daemonsets -A -l %s), then run `plainroute uninstall` again", refused, agentLabels)
	}
	err := fmt.Errorf("%d of %d nodes are not clean: %s; %s", n, len(rows), strings.Join(names, ", "), next)
	if refused == n {
		err = fmt.Errorf("%w: %w", cleanup.ErrRefused, err)
	}
	return err
}

// Print writes the table.
func (rows Rows) Print(w io.Writer) error {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NODE\tRESULT\tROUTES\tTABLE\tCNI CONFIG\tBRIDGE\tNOTE")
	for _, r := range rows {
		fmt.Fprintln(table, strings.Join([]string{
			r.Node, r.result(), r.count(plan.KindRoute), r.word(plan.KindTable), r.word(plan.KindCNI), r.word(plan.KindBridge), r.note(),
		}, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) { // most have no note
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func (r Row) result() string {
	switch {
	case r.Clean && r.DryRun:
		return "would be cleaned"
	case r.Clean:
		return "clean"
	case r.Gone:
		return "gone"
	}
	return "NOT CLEAN"
}

func (r Row) count(kind plan.Kind) string {
	if !r.Clean {
		return "-"
	}
	return strconv.Itoa(r.Removed[kind])
}

// word says what became of the one thing of a kind.
func (r Row) word(kind plan.Kind) string {
	switch {
	case !r.Clean:
		return "-"
	case slices.ContainsFunc(r.Kept, func(k string) bool { return strings.HasPrefix(k, string(kind)+" ") }):
		return "stays"
	case r.Removed[kind] == 0:
		return "none"
	case r.DryRun:
		return "goes"
	}
	return "removed"
}

func (r Row) note() string {
	var notes []string
	if r.Clean && len(r.Kept) > 0 {
		notes = append(notes, "pods are attached, so these stay: "+strings.Join(r.Kept, ", "))
	}
	if r.Clean && r.Undetached > 0 {
		notes = append(notes, fmt.Sprintf("dead sandboxes are not detached (%d), and a late CNI DEL may make the folder %s of the run folder anew", r.Undetached, topology.IPAMDir))
	}
	if r.Error != "" {
		notes = append(notes, r.Error)
	}
	return text.Printable(strings.Join(notes, "; "))
}
