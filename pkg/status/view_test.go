package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// now is when the golden views are looked at.
func now() time.Time { return at(5).Add(10 * time.Minute) }

// busy is the View of a node with a peer in each state, one route that was lost, and one that was
// put back.
func busy() *View {
	r := example()
	r.Known, r.Seen = true, true
	r.History = &History{
		first: at(0),
		stamps: map[row]stamp{
			{"node3", netip.MustParsePrefix("10.244.3.0/24")}: {since: at(5).Add(8 * time.Minute).UnixNano()},
			{"node6", netip.MustParsePrefix("10.244.6.0/24")}: {repaired: at(4).UnixNano()},
		},
	}
	actual := r.Desired
	actual.Routes = actual.Routes[:1:1] // but that of our own subnet
	actual.Routes = append(actual.Routes, peerRoute("10.244.2.0/24", "192.168.1.99"), r.Desired.Routes[2], r.Desired.Routes[3], peerRoute("10.244.99.0/24", "192.168.1.99"), r.Desired.Routes[4])
	actual.Masquerade = nil
	report := r.Report()
	changes := plan.Diff(r.Desired, actual)
	report.Drift = Drift{Time: now(), Differences: Differences(changes, r.Host.Config)}
	markMissing(report.Peers, changes)
	return NewView(report, now())
}

// calm is the View of a node without problems.
func calm() *View {
	r := passAt(5, 4)
	r.Version, r.Node, r.Ready, r.Seen, r.Host, r.API = "v1", "node1", true, true, example().Host, example().API
	r.History = &History{first: at(0)}
	r.Desired.CNI = example().Desired.CNI
	report := r.Report()
	report.Drift.Time = now()
	return NewView(report, now())
}

// unready is the View of a node that has no Nodes yet.
func unready() *View {
	r := &Result{Version: "v1", Node: "node1", Problems: []problem.Problem{{
		Reason: problem.APIUnavailable, BlocksReady: true, Message: "waiting for the first list of Nodes; routes stay as they are: dial tcp 10.0.0.1:6443: connection refused",
	}}, API: API{Error: "dial tcp 10.0.0.1:6443: connection refused"}, Host: Host{Encapsulation: "never", Bridge: "plainroute0"}, Pass: Pass{Number: 1, Time: at(0)}}
	return NewView(r.Report(), now())
}

// noreport is the View of a node without an agent.
func noreport() *View {
	leftover := Leftover{State: example().Desired, Ports: 1, Config: "/etc/cni/net.d/10-plainroute.conflist"}
	leftover.State.Bridge = "plainroute0"
	leftover.State.Addresses = []topology.Address{{Dev: "plainroute0", Prefix: netip.MustParsePrefix("10.244.1.1/24")}}
	return NoReportView("dial tcp 127.0.0.1:9472: connect: connection refused", leftover, now())
}

func TestViews(t *testing.T) {
	views := map[string]func() *View{"busy": busy, "calm": calm, "unready": unready, "noreport": noreport}
	for name, view := range views {
		for _, output := range Outputs {
			for _, problems := range []bool{false, true} {
				file := name + "." + output
				if problems {
					file = name + "-problems." + output
				}
				var got bytes.Buffer
				if err := view().Print(&got, Format{Output: output, Problems: problems}); err != nil {
					t.Fatal(err)
				}
				compare(t, filepath.Join("testdata", "view", file), got.Bytes())
			}
		}
		if ok := view().OK(); ok != (name == "calm") {
			t.Errorf("%s is ok: %t", name, ok)
		}
	}
}

// Plugins after our own are named with where they come from, and so is a config that is wanted
// before ours.
func TestViewOfAChain(t *testing.T) {
	v := calm()
	v.State.CNI.Plugins = []topology.Plugin{{Type: "bandwidth", File: "10-bandwidth.json"}, {Type: "mesh-cni", Config: `{"secret":"x"}`}}
	v.Host.ConfigsBefore = []string{"00-multus.conf"}
	for output, want := range map[string][]string{
		"table": {v.Host.Config + ", after 00-multus.conf, which is allowed\n", "bandwidth (10-bandwidth.json), mesh-cni (added by another program)\n"},
		"json":  {`"file": "10-bandwidth.json"`, `"type": "mesh-cni"`},
	} {
		var got bytes.Buffer
		if err := v.Print(&got, Format{Output: output}); err != nil {
			t.Fatal(err)
		}
		for _, text := range want {
			if !strings.Contains(got.String(), text) || strings.Contains(got.String(), "secret") {
				t.Errorf("%s lacks %q, or has the plugin's config:\n%s", output, text, &got)
			}
		}
	}
}

func compare(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got:\n%s\nwant:\n%s", file, got, want)
	}
}

// Colors are put around lines, so that columns keep their positions.
func TestColorsLeaveTheTextAlone(t *testing.T) {
	for _, output := range []string{"table", "wide"} {
		var plain, colored bytes.Buffer
		if err := busy().Print(&plain, Format{Output: output}); err != nil {
			t.Fatal(err)
		}
		if err := busy().Print(&colored, Format{Output: output, Color: true}); err != nil {
			t.Fatal(err)
		}
		text := colored.String()
		if !strings.Contains(text, "\x1b[31m  node2") && !strings.Contains(text, "\x1b[31mnode2") {
			t.Errorf("a missing route isn't red:\n%s", text)
		}
		for _, code := range []string{"\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"} {
			text = strings.ReplaceAll(text, code, "")
		}
		if text != plain.String() {
			t.Errorf("with colors:\n%s\nwithout:\n%s", text, plain.String())
		}
	}
}

// No text of an agent, and so none that a writer of Nodes controls, reaches a terminal as a
// command, whichever the format.
func TestHostileText(t *testing.T) {
	const evil = "a\x1b[2J\x1b]0;x\a\u009b31m\u202ename\r\nfake\tline\x7f\u2028\U000e0001"
	r := busy().Report
	r.Node, r.Version, r.API.Error = evil, evil, evil
	r.Host.Bridge, r.Host.Config, r.Host.Uplinks = evil, evil, []Uplink{{Name: evil}}
	r.Drift.Error, r.Drift.Differences = evil, []problem.Problem{{Reason: evil, Message: evil, Evidence: evil, Remediation: evil, Severity: evil}}
	r.Problems = []problem.Problem{{Subject: problem.Node(evil), Reason: evil, Message: evil}}
	r.Conditions = []Condition{{Name: evil, Status: evil, Reason: evil, Message: evil}}
	for i := range r.Peers {
		p := &r.Peers[i]
		p.Node, p.Dev, p.State, p.Message, p.Reason = evil, evil, evil, evil, []problem.Reason{evil}
	}
	leftover := Leftover{State: example().Desired, Config: evil}
	leftover.State.Bridge, leftover.State.CNI.Bridge = evil, evil
	leftover.State.Routes[1].Dev = evil
	for _, view := range []*View{NewView(r, now()), NoReportView(evil, leftover, now()), NoReportView(evil, Leftover{Error: evil}, now())} {
		for _, output := range Outputs {
			var got bytes.Buffer
			if err := view.Print(&got, Format{Output: output}); err != nil {
				t.Fatal(err)
			}
			for _, c := range got.String() {
				if c != '\n' && !unicode.IsPrint(c) {
					t.Errorf("-o %s prints %U:\n%q", output, c, got.String())
					break
				}
			}
			for line := range strings.Lines(got.String()) {
				if strings.HasPrefix(line, "fake") {
					t.Errorf("-o %s has a line that is not ours: %q", output, line)
				}
			}
			var back View
			if output == "json" && (json.Unmarshal(got.Bytes(), &back) != nil || back.NoReport == "" && back.Node != evil) {
				t.Errorf("JSON reads back as %q", back.Node)
			}
		}
	}
}

// Of a problem that thousands share, some lines are printed; wide prints all.
func TestManyProblemsAreShort(t *testing.T) {
	v := calm()
	for i := range 5000 {
		v.Problems = append(v.Problems, problem.Problem{Subject: problem.Node(fmt.Sprint("node", i)), Reason: problem.OffLink, Message: "behind a gateway"})
		v.Drift.Differences = append(v.Drift.Differences, problem.Problem{Reason: problem.Missing, Message: fmt.Sprint("route", i)})
	}
	lines := map[string]int{}
	for _, output := range []string{"table", "wide"} {
		var got bytes.Buffer
		if err := v.Print(&got, Format{Output: output}); err != nil {
			t.Fatal(err)
		}
		lines[output] = bytes.Count(got.Bytes(), []byte("\n"))
	}
	if lines["table"] > 60 || lines["wide"] < 10000 {
		t.Errorf("there are %v lines", lines)
	}
}

// A View with any problem is not OK.
func TestOK(t *testing.T) {
	if !calm().OK() {
		t.Fatal("nothing is wrong")
	}
	for name, spoil := range map[string]func(*View){
		"no answer":      func(v *View) { v.NoReport = problem.NoAnswer },
		"not ready":      func(v *View) { v.Ready = false },
		"a problem":      func(v *View) { v.Problems = []problem.Problem{{Reason: problem.PruneHeld}} },
		"no API server":  func(v *View) { v.API.Error = "connection refused" },
		"an unseen host": func(v *View) { v.Drift.Error = "no memory" },
		"a difference": func(v *View) {
			v.Drift.Differences = []problem.Problem{{Reason: problem.Missing, Message: "table inet plainroute"}}
		},
		"a peer in doubt": func(v *View) { v.Peers[1].State = OffLink },
	} {
		v := calm()
		if spoil(v); v.OK() {
			t.Errorf("%s is ok", name)
		}
	}
}

// The column PATH has how a peer is reached, by which of this host's routes, and why not by an earlier InternalIP.
func TestPaths(t *testing.T) {
	for want, p := range map[string]Peer{
		"-":                                 {},
		"direct by 192.168.1.0/24 dev eth0": {Path: topology.PathDirect, By: "192.168.1.0/24 dev eth0"},
		"tunnel to 192.168.2.13 by default dev eth0":   {Path: topology.PathTunnel, InternalIP: netip.MustParseAddr("192.168.2.13"), By: "default dev eth0"},
		"direct by 192.168.1.0/24 dev eth0 because no": {Path: topology.PathDirect, By: "192.168.1.0/24 dev eth0", Before: "no"},
	} {
		if got := p.path(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
