package uninstall

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Row is the result of a node.
type Row struct {
	Node  string `json:"node"`
	Clean bool   `json:"clean"`           // nothing of plainroute is left except what is kept
	Gone  bool   `json:"gone,omitempty"`  // the Node was deleted meanwhile
	Error string `json:"error,omitempty"` // why the node is not clean
	cleanup.Summary
}

// Rows are the results of all nodes, sorted by name.
type Rows []Row

// Report is the document of Rows.
type Report struct {
	metav1.TypeMeta `json:",inline"`
	Nodes           Rows `json:"nodes"`
}

// Report returns the document.
func (rows Rows) Report() Report { return Report{status.TypeMeta("UninstallReport"), rows} }

// rows returns the results; nodes are those that exist now.
func (f *tracker) rows(nodes map[string]*corev1.Node) Rows {
	rows := make(Rows, 0, len(f.states))
	for name, v := range f.states {
		row := Row{Node: name, Clean: v.stage == clean, Summary: v.summary}
		switch {
		case !row.Clean && f.interrupted && v.ended == nil:
			row.Error = "interrupted before it had reported a result"
		case !row.Clean:
			row.Error, row.Gone = v.reason(nodes[name]), nodes[name] == nil
		case row.Refused: // in a dry run
			row.Error = "it would be refused now: " + v.summary.Error
		}
		row.Summary.Error = ""
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Node, b.Node) })
	return rows
}

// maxNames is how many nodes an error names.
const maxNames = 20

// refused reports that an agent runs on the node, the only reason for which cleanup --force
// refuses.
func (r Row) refused() bool { return !r.Clean && !r.Gone && r.Refused }

// err returns an error that names the nodes that are left. It is cleanup.ErrRefused if agents run
// on all of them; agents names those, if known.
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
	next := "once they can be, run `plainroute uninstall` again, or `plainroute cleanup --force` on each"
	switch {
	case refused > 0 && agents != "":
		next = fmt.Sprintf("agents run on %d of them, of %s: remove that first, then run `plainroute uninstall` again", refused, agents)
	case refused > 0:
		next = fmt.Sprintf("agents run on %d of them: remove those first (kubectl get daemonsets -A -l %s), then run `plainroute uninstall` again", refused, agentLabels)
	}
	err := fmt.Errorf("%d of %d nodes are not clean: %s; %s", n, len(rows), text.Some(names, n, maxNames), next)
	if refused == n {
		err = fmt.Errorf("%w: %w", cleanup.ErrRefused, err)
	}
	return err
}

// Print writes the table.
func (report Report) Print(w io.Writer) error {
	lines := make([][]string, len(report.Nodes))
	for i, r := range report.Nodes {
		lines[i] = []string{r.Node, r.result(), r.count(plan.KindRoute), r.count(plan.KindTunnel), r.outcome(plan.KindTable), r.outcome(plan.KindCNI), r.outcome(plan.KindBridge), r.note()}
	}
	var out bytes.Buffer
	header := []string{"NODE", "RESULT", "ROUTES", "TUNNELS", "TABLE", "CNI CONFIG", "BRIDGE", "NOTE"}
	text.Table(&out, text.Gap, header, lines, nil)
	_, err := w.Write(out.Bytes())
	return err
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

// outcome returns what happened to the only object of a kind.
func (r Row) outcome(kind plan.Kind) string {
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
		notes = append(notes, fmt.Sprintf("dead sandboxes are not detached (%d), and a late CNI DEL may create the folder %s of the run folder again", r.Undetached, topology.IPAMDir))
	}
	if r.Error != "" {
		notes = append(notes, r.Error)
	}
	return text.Printable(strings.Join(notes, "; "))
}
