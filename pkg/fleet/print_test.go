package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"unicode"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

func printed(t *testing.T, c *Cluster, f Format) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := c.Print(&out, f); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestPrint(t *testing.T) {
	fine, bad := newWorld(3).collect(t), broken().collect(t)
	if !fine.OK() || bad.OK() {
		t.Errorf("OK is %t of a cluster that is fine, and %t of one that is not", fine.OK(), bad.OK())
	}
	for _, output := range []string{"table", "wide", "matrix", "name"} {
		for _, problems := range []bool{false, true} {
			file := output + map[bool]string{true: "-problems"}[problems]
			f := Format{Output: output, Problems: problems}
			golden(t, "fine-"+file+".txt", printed(t, fine, f))
			golden(t, "broken-"+file+".txt", printed(t, bad, f))
		}
	}
	golden(t, "color.txt", printed(t, bad, Format{Output: "wide", Color: true}))
}

// The matrix of a large cluster has the Nodes with problems, and problems of many Nodes are printed
// once.
func TestPrintLarge(t *testing.T) {
	w := newWorld(300)
	for i := range 300 {
		if i != 77 {
			w.lose(i, 77, status.Refused, problem.PodCIDRRefused, "podCIDR 10.128.77.0/24 is outside of what pods may have")
			w.lose(120, i, status.Failed, problem.RouteFailed, "no buffer space available")
		}
	}
	w.noReport(200, problem.NotRunning, "the agent does not run: ImagePullBackOff")
	c := w.collect(t)
	golden(t, "large-table.txt", printed(t, c, Format{Output: "table", Problems: true})[:4000])
	golden(t, "large-matrix.txt", printed(t, c, Format{Output: "matrix"}))
	if kept := len(c.Nodes[120].Report.Peers); kept != Kept {
		t.Errorf("%d peers of node-121 are kept, want %d", kept, Kept)
	}
	if n := c.Nodes[120].Count.OK; n != 0 {
		t.Errorf("node-121 has %d peers that are ok, want 0", n)
	}
}

// This test covers the JSON around the Reports; their own package has a golden file for those.
func TestYAML(t *testing.T) {
	c := broken().collect(t)
	for i := range c.Nodes {
		c.Nodes[i].Report = nil
	}
	golden(t, "broken-yaml.txt", printed(t, c, Format{Output: "yaml"}))
}

// JSON can be decoded again, with the cells; --problems leaves out Nodes without problems.
func TestJSON(t *testing.T) {
	c := broken().collect(t)
	var some Cluster
	if err := json.Unmarshal(printed(t, c, Format{Output: "json", Problems: true}), &some); err != nil {
		t.Fatal(err)
	}
	if len(some.Nodes) != 5 || some.Nodes[0].Routes != nil {
		t.Errorf("got %d nodes with problems and routes %q of the first, want 5 and none", len(some.Nodes), some.Nodes[0].Routes.String())
	}
	var again Cluster
	if err := json.Unmarshal(printed(t, c, Format{Output: "json"}), &again); err != nil {
		t.Fatal(err)
	}
	for from := range c.Nodes {
		for to := range c.Nodes {
			if got, want := again.Cell(from, to), c.Cell(from, to); got != want {
				t.Errorf("%s to %s: %s, want %s", name(from), name(to), got, want)
			}
		}
	}
	if err := json.Unmarshal([]byte(`{"nodes":[{"routes":"=x"}]}`), &again); err == nil || !strings.Contains(err.Error(), "'x' is not one of") {
		t.Errorf("got %v for a symbol that is none", err)
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(*world)
		want []string
	}{
		{"nothing", func(*world) {}, nil},
		{"one way", func(w *world) { w.lose(0, 1, status.Missing, "", "") }, []string{"Asymmetry [node-1 node-2]"}},
		{"neither way", func(w *world) { w.lose(0, 1, status.Missing, "", ""); w.lose(1, 0, status.OffLink, "", "") }, nil},
		{"one silent", func(w *world) { w.noReport(1, problem.NoAnswer, "") }, nil},
		{"none to anybody", func(w *world) {
			for i := 1; i < 4; i++ {
				w.lose(0, i, status.Failed, "", "")
			}
		}, []string{"Asymmetry [node-1 node-2 node-3 node-4]"}},
		{"unaware of one", func(w *world) { w.reports["node-3"].Peers = w.reports["node-3"].Peers[:2] }, []string{"Asymmetry [node-3 node-4]"}},
		{"another's subnet", func(w *world) { w.reports["node-1"].Peers[0].Node = "node-4" }, []string{"Disagreement [node-2 node-4]", "Asymmetry [node-1 node-2]"}},
		{"a part of another's subnet", func(w *world) {
			w.reports["node-1"].Peers[0].Node, w.reports["node-1"].Peers[0].Subnet = "node-4", netip.PrefixFrom(subnet(1).Addr(), subnet(1).Bits()+2)
		}, []string{"Disagreement [node-2 node-4]", "Asymmetry [node-1 node-2]"}},
		{"another's idea of its own", func(w *world) { w.reports["node-1"].Host.Subnets[0] = subnet(9) }, nil},
		{"two versions", func(w *world) { w.reports["node-2"].Version = "v0" }, []string{"Versions [node-2] note"}},
	} {
		w := newWorld(4)
		c.do(w)
		var got []string
		for _, f := range w.collect(t).Problems {
			text := fmt.Sprint(f.Reason, " ", f.Nodes)
			if f.Severity == problem.Info {
				text += " note"
			}
			got = append(got, text)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
}

// Text from the network doesn't control the terminal, and doesn't begin lines.
func TestPrintHostile(t *testing.T) {
	w := newWorld(2)
	w.reports[name(0)].Version = "v1\x1b[2J"
	w.lose(0, 1, status.Failed, problem.RouteFailed, "bad\nnode-2:\x1b[31m\u202e")
	w.noReport(1, problem.NotRunning, "the agent does not run: \x1b]0;title\a")
	c := w.collect(t)
	c.Problems = append(c.Problems, problem.Group{Problem: problem.New(problem.Disagreement, problem.Subject{}, "\x9b2J")})
	for _, output := range Outputs {
		for _, r := range string(printed(t, c, Format{Output: output})) {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("-o %s prints %U", output, r)
			}
		}
	}
}
