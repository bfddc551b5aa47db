package finding

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestWorst(t *testing.T) {
	for want, found := range map[Verdict][]Verdict{
		OK: {OK, OK}, Skipped: {OK, Skipped}, Warning: {Warning, Skipped}, Failure: {Warning, Failure, OK},
	} {
		var all []Finding
		for _, v := range found {
			all = append(all, Finding{Verdict: v})
		}
		if got := Worst(all); got != want {
			t.Errorf("the worst of %v is %s", found, got)
		}
	}
}

// ward are four nodes of whom two share a warning, two answer nothing, and one is ill.
func ward() *Cluster {
	well := Finding{Check: "forwarding", Verdict: OK}
	blind := Finding{Check: "leases", Verdict: Skipped, Fault: "no such folder", Cure: "mount it"}
	shared := func(evidence string) Finding {
		return Finding{Check: "neighbours", Verdict: Warning, Fault: "node9 is away", Evidence: evidence, Cure: "bring it back"}
	}
	return &Cluster{Nodes: []Node{
		{Node: "node1", Findings: []Finding{well, blind, shared("on eth0")}},
		{Node: "node2", Findings: []Finding{{Check: "ports", Verdict: Failure, Fault: "no \x1b[31mkubelet", Evidence: "refused", Cure: "start it"}, blind, shared("on eth1")}},
		{Node: "node3", Silence: "NoAnswer", Detail: "it hangs", Cure: "wake it"},
		{Node: "node4", Silence: "NotManaged", Detail: "it is virtual", Excused: true},
	}}
}

func TestPrintCluster(t *testing.T) {
	for name, c := range map[string]struct {
		format Format
		want   string
	}{
		"brief": {Format{Output: "table"}, `failure: ports: no \u001b[31mkubelet
  on: 1 of 4 nodes: node2
  evidence: refused
  cure: start it
warning: neighbours: node9 is away
  on: 2 of 4 nodes: node1, node2
  evidence of node1: on eth0
  cure: bring it back
not examined: it hangs
  on: 1 of 4 nodes: node3
  cure: wake it
2 of 4 nodes examined: 1 check passed, 1 failure, 2 warnings, 2 skipped (--verbose says why)
`},
		"verbose": {Format{Output: "table", Verbose: true}, `failure: ports: no \u001b[31mkubelet
  on: 1 of 4 nodes: node2
  evidence: refused
  cure: start it
warning: neighbours: node9 is away
  on: 2 of 4 nodes: node1, node2
  evidence of node1: on eth0
  cure: bring it back
skipped: leases: no such folder
  on: 2 of 4 nodes: node1, node2
  cure: mount it
ok: forwarding
  on: 1 of 4 nodes: node1
not examined: it hangs
  on: 1 of 4 nodes: node3
  cure: wake it
left out: it is virtual
  on: 1 of 4 nodes: node4
2 of 4 nodes examined: 1 check passed, 1 failure, 2 warnings, 2 skipped (--verbose says why)
`},
	} {
		var b strings.Builder
		if err := ward().Print(&b, c.format); err != nil || b.String() != c.want {
			t.Errorf("%s: %v, it is\n%s", name, err, b.String())
		}
	}
}

// JSON has all, by node.
func TestPrintClusterAsJSON(t *testing.T) {
	var b strings.Builder
	if err := ward().Print(&b, Format{Output: "json"}); err != nil {
		t.Fatal(err)
	}
	var got Cluster
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil || !reflect.DeepEqual(&got, ward()) {
		t.Errorf("%v, it is\n%s", err, b.String())
	}
}

// Only failures, and nodes that should have answered, are what an exit code is for.
func TestClusterOK(t *testing.T) {
	c := ward()
	for i, want := range map[int]bool{0: true, 1: false, 2: false, 3: true} {
		if one := (&Cluster{Nodes: c.Nodes[i : i+1]}); one.OK() != want {
			t.Errorf("%+v is OK: %t", one, !want)
		}
	}
}

// Thousands of nodes are told in a few lines, and soon.
func TestPrintLargeCluster(t *testing.T) {
	c := &Cluster{}
	for i := range 5000 {
		n := Node{Node: fmt.Sprintf("node%04d", i)}
		for j := range 30 {
			n.Findings = append(n.Findings, Finding{Check: fmt.Sprint(j), Verdict: Warning, Fault: "the same everywhere"})
		}
		c.Nodes = append(c.Nodes, n)
	}
	var b strings.Builder
	took := time.Hour
	for range 3 { // others may have the machine meanwhile
		b.Reset()
		begin := time.Now()
		if err := c.Print(&b, Format{}); err != nil {
			t.Fatal(err)
		}
		took = min(took, time.Since(begin))
	}
	if took > 5*time.Second || strings.Count(b.String(), "\n") != 61 || !strings.Contains(b.String(), "5000 of 5000 nodes: node0000, ") || !strings.Contains(b.String(), "node0009 and 4990 more") {
		t.Errorf("after %s it is\n%.2000s", took, b.String())
	}
}
