package status

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// table writes the node's identity, its problems with their remediation, and the peers.
func (v *View) table(w *bytes.Buffer, f Format) {
	printer := problem.Printer{Color: f.Color, All: f.Output == "wide", More: "-o wide lists them"}
	if v.NoReport != "" {
		printer.Print(w, problem.Grouped(v.Problems))
		v.leftovers(w, f)
		return
	}
	v.identity(w, f)
	printer.Section(w, "PROBLEMS", problem.Grouped(v.withUnread()))
	printer.Section(w, "DIFFERENCES", problem.Grouped(v.Drift.Differences))
	if f.Output == "wide" {
		v.wide(w)
	}
	v.peerTable(w, f)
}

// fact writes a name and its value.
func fact(w *bytes.Buffer, name, format string, args ...any) {
	fmt.Fprintf(w, "  %-11s %s\n", name, text.Printable(fmt.Sprintf(format, args...)))
}

func (v *View) identity(w *bytes.Buffer, f Format) {
	who := "Node " + text.Printable(v.Node)
	if v.Host.Router {
		who = "Router"
	}
	verdict := text.Paint(f.Color, text.Green, "ready")
	if !v.Ready {
		verdict = text.Paint(f.Color, text.Red, "not ready")
	}
	fmt.Fprintf(w, "%s: %s (plainroute %s)\n", who, verdict, text.Printable(cmp.Or(v.Version, "of unknown version")))
	h := &v.Host
	if !h.Router {
		fact(w, "addresses", "%s", text.List(h.Addresses, ", "))
		fact(w, "subnets", "%s", text.List(h.Subnets, ", "))
		uplinks := make([]string, len(h.Uplinks))
		for i, u := range h.Uplinks {
			uplinks[i] = fmt.Sprintf("%s (MTU %d)", u.Name, u.MTU)
		}
		fact(w, "uplinks", "%s", text.List(uplinks, ", "))
		fact(w, "pods", "%s on %s, MTU %s, encapsulation: %s", text.Counted(h.Ports, "port"), h.Bridge, text.OrNone(h.MTU), h.Encapsulation)
		fact(w, "CNI config", "%s", v.config())
		if chained := v.chained(); chained != "" {
			fact(w, "chained", "%s", chained)
		}
	}
	fact(w, "API server", "%s", v.api())
	fact(w, "last pass", "%s ago in %s, %s", v.age(v.Pass.Time), v.Pass.Duration.Round(10*time.Microsecond), text.Counted(v.Pass.Changes, "change"))
	fact(w, "kernel", "%s", v.kernel())
}

// config describes our CNI config.
func (v *View) config() string {
	if v.State.CNI == nil {
		return "none yet: the node is not Ready in the cluster without one"
	}
	for _, d := range v.Drift.Differences {
		if strings.HasSuffix(d.Message, " "+v.Host.Config) {
			return v.Host.Config + ", " + strings.ToLower(string(d.Reason))
		}
	}
	if len(v.Host.ConfigsBefore) > 0 {
		return fmt.Sprintf("%s, after %s, which is allowed", v.Host.Config, strings.Join(v.Host.ConfigsBefore, ", "))
	}
	return v.Host.Config
}

// chained lists the plugins after our own, and their sources.
func (v *View) chained() string {
	if v.State.CNI == nil {
		return ""
	}
	names := make([]string, len(v.State.CNI.Plugins))
	for i, p := range v.State.CNI.Plugins {
		names[i] = fmt.Sprintf("%s (%s)", p.Type, cmp.Or(p.File, "added by another program"))
	}
	return strings.Join(names, ", ")
}

func (v *View) api() string {
	state := "no event yet"
	if !v.API.LastEvent.IsZero() {
		state = "last event " + v.age(v.API.LastEvent) + " ago"
	}
	if !v.API.Synced {
		state += "; no list of Nodes yet"
	}
	if v.API.Error != "" {
		state += "; requests fail: " + v.API.Error
	}
	return state
}

// kernel describes how the host differs from the desired State.
func (v *View) kernel() string {
	switch n := len(v.Drift.Differences); {
	case v.Drift.Error != "":
		return "can't be read: " + v.Drift.Error
	case v.Drift.Time.IsZero():
		return "the desired state is not known yet"
	case n > 0:
		return text.Counted(n, "difference") + ", " + v.age(v.Drift.Time) + " ago"
	}
	return "as desired, " + v.age(v.Drift.Time) + " ago"
}

// maxPasses is how many passes -o wide lists.
const maxPasses = 10

// wide writes the conditions and the last passes.
func (v *View) wide(w *bytes.Buffer) {
	if len(v.Conditions) > 0 {
		fmt.Fprintln(w, "\nCONDITIONS")
	}
	for _, c := range v.Conditions {
		fmt.Fprintf(w, "  %-15s %s\n", text.Printable(c.Name), c)
	}
	if len(v.Passes) > 0 {
		fmt.Fprintln(w, "\nPASSES")
	}
	for _, p := range v.Passes[:min(len(v.Passes), maxPasses)] {
		fmt.Fprintf(w, "  %-8d %s  %s, %s\n", p.Number, p.Time.UTC().Format(time.RFC3339), p.Duration.Round(10*time.Microsecond), text.Counted(p.Changes, "change"))
	}
}

func (v *View) peerTable(w *bytes.Buffer, f Format) {
	peers := v.peers(f)
	fmt.Fprintf(w, "\n%s\n", v.tally())
	if len(peers) == 0 {
		return
	}
	header := []string{"NODE", "SUBNET", "NEXT-HOP", "DEV", "STATE", "SINCE", "LAST-REPAIR", "REASON"}
	if f.Output == "wide" {
		header = append(header, "PATH", "DETAIL")
	}
	rows := make([][]string, len(peers))
	for i := range peers {
		rows[i] = v.cells(&peers[i], f)
	}
	text.Table(w, text.Gap, header, rows, func(i int, line string) string { return text.Paint(f.Color, peers[i].color(), line) })
}

func (v *View) cells(p *Peer, f Format) []string {
	reasons := make([]string, len(p.Reason))
	for i, r := range p.Reason {
		reasons[i] = string(r)
	}
	cells := []string{
		text.Printable(p.Node), p.Subnet.String(), text.OrNone(p.Via), cmp.Or(text.Printable(p.Dev), text.None), text.Printable(string(p.State)),
		v.age(p.Since), v.age(p.Repaired), cmp.Or(text.Printable(strings.Join(reasons, ",")), text.None),
	}
	if f.Output == "wide" {
		cells = append(cells, p.path(), cmp.Or(text.Printable(p.Message), text.None))
	}
	return cells
}

// path describes how packets get to a peer: "direct by 192.168.1.0/24 dev eth0", "tunnel to
// 192.168.2.13 by default via 192.168.1.1 dev eth0". If an earlier InternalIP of the Node does not
// count, the reason follows.
func (p *Peer) path() string {
	words := []string{cmp.Or(string(p.Path), text.None)}
	if p.Path != "" && p.Path != topology.PathDirect {
		words = append(words, "to", p.InternalIP.String())
	}
	if p.By != "" {
		words = append(words, "by", p.By)
	}
	if p.Before != "" {
		words = append(words, "because", p.Before)
	}
	return text.Printable(strings.Join(words, " "))
}

// tally summarizes the peers on one line.
func (v *View) tally() string {
	states := map[PeerState]int{}
	for _, p := range v.Peers {
		states[p.State]++
	}
	words := []string{fmt.Sprintf("PEERS: %d of %d ok", states[OK], len(v.Peers))}
	delete(states, OK)
	for state, n := range states {
		words = append(words, fmt.Sprintf("%d %s", n, text.Printable(string(state))))
	}
	slices.Sort(words[1:])
	return strings.Join(words, ", ")
}

func (v *View) age(then time.Time) string { return text.Age(v.now, then) }

func (p *Peer) color() string {
	switch p.State {
	case OK:
		return ""
	case Conflict, OffLink, Refused:
		return text.Yellow
	}
	return text.Red
}
