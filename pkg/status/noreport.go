package status

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"

	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// The remediation if no agent answers: startIt if none runs, findIt otherwise.
const (
	startIt = "No agent runs on this node: see its pod (kubectl get pods -A -l app.kubernetes.io/part-of=plainroute -o wide) and its log. " +
		"Routes stay unchanged meanwhile, but changes of Nodes have no effect."
	findIt = "An agent runs on this node, but not on that address (--listen, PLAINROUTE_LISTEN), or it hangs: see its log. " +
		"Routes stay unchanged meanwhile."
)

// noReport writes why there is no report, and what plainroute has left on the node.
func (v *View) noReport(w *bytes.Buffer, f Format) {
	fmt.Fprintf(w, "%s\n", text.Paint(f.Color, text.Red, "The agent does not answer: "+text.Printable(v.Message)))
	remediation := startIt
	if v.Leftover.Locked {
		remediation = findIt
	}
	fmt.Fprintf(w, "  -> %s\n\nObjects with plainroute's mark on this node:\n", remediation)
	if v.Leftover.Error != "" {
		fact(w, "kernel", "can't be read: %s", v.Leftover.Error)
		return
	}
	own, rows := v.Leftover.routes()
	fact(w, "subnets", "%s", text.List(own, ", "))
	fact(w, "bridge", "%s", v.Leftover.bridge())
	fact(w, "table", "%s", v.Leftover.table())
	fact(w, "CNI config", "%s", v.Leftover.config())
	fact(w, "routes", "%d to peers", len(rows))
	if len(rows) == 0 || f.Problems {
		return
	}
	w.WriteByte('\n')
	text.Table(w, []string{"SUBNET", "NEXT-HOP", "DEV"}, rows, func(_ int, line string) string { return line })
}

// routes returns our own subnets, and a table row for each other route.
func (h *Leftover) routes() (own []netip.Prefix, rows [][]string) {
	for _, r := range h.State.Routes {
		if r.Metric == topology.MetricOwn {
			own = append(own, r.Dst)
			continue
		}
		rows = append(rows, []string{r.Dst.String(), text.OrNone(r.Via), cmp.Or(text.Printable(r.Dev), text.None)})
	}
	return own, rows
}

func (h *Leftover) bridge() string {
	if h.State.Bridge == "" {
		return text.None
	}
	return fmt.Sprintf("%s with %s, addresses: %s", h.State.Bridge, text.Counted(h.Ports, "port"), text.List(h.State.Addresses, ", "))
}

func (h *Leftover) table() string {
	if h.State.Masquerade == nil {
		return text.None
	}
	return fmt.Sprintf("inet %s, masquerading %s", topology.Table, text.List(h.State.Masquerade.Sources, ", "))
}

func (h *Leftover) config() string {
	c := h.State.CNI
	if c == nil {
		return text.None
	}
	return fmt.Sprintf("%s: subnets %s, MTU %d, bridge %s", h.Config, text.List(c.Subnets, ", "), c.MTU, c.Bridge)
}
