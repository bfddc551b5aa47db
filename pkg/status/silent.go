package status

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"

	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// What to do where no agent answers.
const (
	startIt = "No agent runs on this node: see its pod (kubectl get pods -A -l app.kubernetes.io/part-of=plainroute -o wide) and its log. " +
		"Routes stay as they are meanwhile, but no change of the cluster arrives."
	findIt = "An agent runs on this node, but not on that address (--listen, PLAINROUTE_LISTEN), or it hangs: see its log. " +
		"Routes stay as they are meanwhile."
)

// silent says what is there of ours where there is no agent to tell.
func (v *View) silent(w *bytes.Buffer, f Format) {
	fmt.Fprintf(w, "%s\n", text.Paint(f.Color, text.Red, "The agent does not answer: "+text.Printable(v.Silence)))
	advice := startIt
	if v.Held.Locked {
		advice = findIt
	}
	fmt.Fprintf(w, "  -> %s\n\nWhat bears plainroute's mark on this node:\n", advice)
	if v.Held.Error != "" {
		fact(w, "kernel", "can't be looked at: %s", v.Held.Error)
		return
	}
	own, rows := v.Held.routes()
	fact(w, "subnets", "%s", list(own))
	fact(w, "bridge", "%s", v.Held.bridge())
	fact(w, "table", "%s", v.Held.table())
	fact(w, "CNI config", "%s", v.Held.config())
	fact(w, "routes", "%d to peers", len(rows))
	if len(rows) == 0 || f.Problems {
		return
	}
	w.WriteByte('\n')
	text.Table(w, []string{"SUBNET", "NEXT-HOP", "DEV"}, rows, func(_ int, line string) string { return line })
}

// routes gives our own subnets, and a row for each other.
func (h *Held) routes() (own []netip.Prefix, rows [][]string) {
	for _, r := range h.State.Routes {
		if r.Metric == topology.MetricOwn {
			own = append(own, r.Dst)
			continue
		}
		rows = append(rows, []string{r.Dst.String(), orNone(r.Via), cmp.Or(text.Printable(r.Dev), text.None)})
	}
	return own, rows
}

func (h *Held) bridge() string {
	if h.State.Bridge == "" {
		return text.None
	}
	return fmt.Sprintf("%s with %s, addresses: %s", h.State.Bridge, text.Counted(h.Ports, "port"), list(h.State.Addresses))
}

func (h *Held) table() string {
	if h.State.Masquerade == nil {
		return text.None
	}
	return fmt.Sprintf("inet %s, masquerading %s", topology.Table, list(h.State.Masquerade.Sources))
}

func (h *Held) config() string {
	c := h.State.CNI
	if c == nil {
		return text.None
	}
	return fmt.Sprintf("%s: subnets %s, MTU %d, bridge %s", h.Config, list(c.Subnets), c.MTU, c.Bridge)
}
