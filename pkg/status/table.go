package status

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/plainroute/plainroute/pkg/topology"
)

// table says who this node is, what is wrong and what to do, and then lists the peers.
func (v *View) table(w *bytes.Buffer, f Format) {
	if v.Silence != "" {
		v.silent(w, f)
		return
	}
	v.identity(w, f)
	v.problems(w, f)
	v.differences(w, f)
	if f.Output == "wide" {
		v.wide(w)
	}
	v.peerTable(w, f)
}

// none stands for what is not known.
const none = "-"

// fact writes a line of what is known.
func fact(w *bytes.Buffer, name, format string, args ...any) {
	fmt.Fprintf(w, "  %-11s %s\n", name, Printable(fmt.Sprintf(format, args...)))
}

func (v *View) identity(w *bytes.Buffer, f Format) {
	who := "Node " + Printable(v.Node)
	if v.Host.Router {
		who = "Router"
	}
	verdict := f.paint(green, "ready")
	if !v.Ready {
		verdict = f.paint(red, "not ready")
	}
	fmt.Fprintf(w, "%s: %s (plainroute %s)\n", who, verdict, Printable(cmp.Or(v.Version, "of unknown version")))
	h := &v.Host
	if !h.Router {
		fact(w, "addresses", "%s", list(h.Addresses))
		fact(w, "subnets", "%s", list(h.Subnets))
		uplinks := make([]string, len(h.Uplinks))
		for i, u := range h.Uplinks {
			uplinks[i] = fmt.Sprintf("%s (MTU %d)", u.Name, u.MTU)
		}
		fact(w, "uplinks", "%s", list(uplinks))
		fact(w, "pods", "%s on %s, MTU %s, encapsulation: %s", Counted(h.Ports, "port"), h.Bridge, orNone(h.MTU), h.Encapsulation)
		fact(w, "CNI config", "%s", v.config())
		if chained := v.chained(); chained != "" {
			fact(w, "chained", "%s", chained)
		}
	}
	fact(w, "API server", "%s", v.api())
	if v.API.Error != "" {
		fmt.Fprintf(w, "    -> %s\n", topology.APIUnavailable.Advice())
	}
	fact(w, "last pass", "%s ago in %s, %s", v.age(v.Pass.Time), v.Pass.Duration.Round(10*time.Microsecond), Counted(v.Pass.Changes, "change"))
	fact(w, "kernel", "%s", v.kernel())
}

// config says what our CNI config is like.
func (v *View) config() string {
	if v.State.CNI == nil {
		return "none yet: the node is not Ready in the cluster until there is one"
	}
	for _, d := range v.Drift.Differences {
		if d.Name == v.Host.Config {
			return v.Host.Config + ", " + string(d.Fault)
		}
	}
	if len(v.Host.ConfigsBefore) > 0 {
		return fmt.Sprintf("%s, after %s, which is wanted", v.Host.Config, strings.Join(v.Host.ConfigsBefore, ", "))
	}
	return v.Host.Config
}

// chained names the plugins after our own, and where each comes from.
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
	said := "has sent nothing yet"
	if !v.API.Heard.IsZero() {
		said = "heard of " + v.age(v.API.Heard) + " ago"
	}
	if !v.API.Synced {
		said += "; there was no list of Nodes yet"
	}
	if v.API.Error != "" {
		said += "; can't be asked just now: " + v.API.Error
	}
	return said
}

// kernel says whether the host is as it should be.
func (v *View) kernel() string {
	switch n := len(v.Drift.Differences); {
	case v.Drift.Error != "":
		return "can't be looked at: " + v.Drift.Error
	case v.Drift.Time.IsZero():
		return "what should be there is not known yet"
	case n > 0:
		return Counted(n, "difference") + ", " + v.age(v.Drift.Time) + " ago"
	}
	return "as it should be, " + v.age(v.Drift.Time) + " ago"
}

// few is how many lines of a kind are shown: of what thousands of peers have in common, some.
const few = 10

// problems says what is wrong, this node's own troubles first, and what to do about
// each kind.
func (v *View) problems(w *bytes.Buffer, f Format) {
	if len(v.Problems) == 0 {
		return
	}
	var order []topology.Reason
	of := map[topology.Reason][]topology.Problem{}
	for _, p := range v.Problems {
		if of[p.Reason] == nil {
			order = append(order, p.Reason)
		}
		of[p.Reason] = append(of[p.Reason], p)
	}
	fmt.Fprintf(w, "\nPROBLEMS (%d)\n", len(v.Problems))
	for _, reason := range order {
		for i, p := range of[reason] {
			if i == few && f.Output != "wide" {
				fmt.Fprintf(w, "  and %d more with %s: -o wide has them\n", len(of[reason])-i, Printable(string(reason)))
				break
			}
			colour := yellow
			if p.Own {
				colour = red
			}
			fmt.Fprintln(w, f.paint(colour, "  "+Printable(p.String())))
		}
		if advice := reason.Advice(); advice != "" {
			fmt.Fprintf(w, "    -> %s\n", advice)
		}
	}
}

// differences says how the host differs from what it should be like.
func (v *View) differences(w *bytes.Buffer, f Format) {
	all := v.Drift.Differences
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, "\nDIFFERENCES (%d)\n", len(all))
	for i, d := range all {
		if i == few && f.Output != "wide" {
			fmt.Fprintf(w, "  and %d more: -o wide has them\n", len(all)-i)
			break
		}
		fmt.Fprintln(w, f.paint(red, fmt.Sprintf("  %-8s %s", Printable(string(d.Fault)), Printable(string(d.Kind)+" "+d.Name))))
	}
	fmt.Fprintf(w, "    -> %s\n", DriftAdvice)
}

// wide lists what this node needs, and how the last passes went.
func (v *View) wide(w *bytes.Buffer) {
	if len(v.Conditions) > 0 {
		fmt.Fprintln(w, "\nCONDITIONS")
	}
	for _, c := range v.Conditions {
		fmt.Fprintf(w, "  %-15s %s\n", Printable(c.Name), Printable(strings.TrimSuffix(string(c.State)+": "+c.Detail, ": ")))
	}
	if len(v.Passes) > 0 {
		fmt.Fprintln(w, "\nPASSES")
	}
	for _, p := range v.Passes[:min(len(v.Passes), few)] {
		fmt.Fprintf(w, "  %-8d %s  %s, %s\n", p.Number, p.Time.UTC().Format(time.RFC3339), p.Duration.Round(10*time.Microsecond), Counted(p.Changes, "change"))
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
		header = append(header, "DETAIL")
	}
	rows := make([][]string, len(peers))
	for i := range peers {
		rows[i] = v.cells(&peers[i], f)
	}
	aligned(w, header, rows, func(i int, line string) string { return f.paint(peers[i].colour(), line) })
}

func (v *View) cells(p *Peer, f Format) []string {
	reasons := make([]string, len(p.Reason))
	for i, r := range p.Reason {
		reasons[i] = string(r)
	}
	cells := []string{
		Printable(p.Node), p.Subnet.String(), orNone(p.Via), cmp.Or(Printable(p.Dev), none), Printable(string(p.State)),
		v.age(p.Since), v.age(p.Repaired), cmp.Or(Printable(strings.Join(reasons, ",")), none),
	}
	if f.Output == "wide" {
		cells = append(cells, cmp.Or(Printable(p.Detail), none))
	}
	return cells
}

// tally is the peers in a line.
func (v *View) tally() string {
	states := map[PeerState]int{}
	for _, p := range v.Peers {
		states[p.State]++
	}
	words := []string{fmt.Sprintf("PEERS: %d of %d ok", states[OK], len(v.Peers))}
	delete(states, OK)
	for state, n := range states {
		words = append(words, fmt.Sprintf("%d %s", n, Printable(string(state))))
	}
	slices.Sort(words[1:])
	return strings.Join(words, ", ")
}

// aligned writes rows in columns, and paints each line as a whole. Of thousands of rows
// text/tabwriter takes five times as long.
func aligned(w *bytes.Buffer, header []string, rows [][]string, paint func(int, string) string) {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	w.Write(padded(header, widths))
	w.WriteByte('\n')
	for i, row := range rows {
		w.WriteString(paint(i, string(padded(row, widths))))
		w.WriteByte('\n')
	}
}

// padded makes all cells but the last as wide as their columns.
func padded(row []string, widths []int) []byte {
	const between = 3
	line := make([]byte, 0, 128)
	for i, cell := range row {
		line = append(line, cell...)
		for n := utf8.RuneCountInString(cell); i < len(row)-1 && n < widths[i]+between; n++ {
			line = append(line, ' ')
		}
	}
	return line
}

// age is as kubectl writes it. What was a little in the future was just now.
func (v *View) age(then time.Time) string {
	if then.IsZero() {
		return none
	}
	return duration.HumanDuration(max(v.now.Sub(then), 0))
}

// Counted is so many of what has a plural in s.
func Counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func list[T any](all []T) string {
	words := make([]string, len(all))
	for i, x := range all {
		words[i] = fmt.Sprint(x)
	}
	return cmp.Or(strings.Join(words, ", "), none)
}

func orNone[T comparable](x T) string {
	var zero T
	if x == zero {
		return none
	}
	return fmt.Sprint(x)
}

// The colours of a terminal, by ECMA-48's SGR.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (p *Peer) colour() string {
	switch p.State {
	case OK:
		return ""
	case Conflict, OffLink, Refused:
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
