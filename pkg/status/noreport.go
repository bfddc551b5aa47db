package status

import (
	"bytes"
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
	text.Table(w, []string{"SUBNET", "NEXT-HOP", "DEV"}, rows, func(_ int, line string) string { return line })
}
