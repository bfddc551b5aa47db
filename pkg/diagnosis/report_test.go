package diagnosis

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
)

// four are nodes of which two share a warning, one has an error, one does not answer, and one runs
// no agent.
func four() *Cluster {
	found := func(severity problem.Severity, check, message, evidence, remediation string) problem.Problem {
		return problem.Problem{Severity: severity, Reason: problem.ReasonOf(check), Message: message, Evidence: evidence, Remediation: remediation}
	}
	unknown := found(problem.Unknown, "leases", "no such folder", "", "mount it")
	shared := func(evidence string) problem.Problem {
		return found(problem.Warning, "neighbors", "node9 is away", evidence, "bring it back")
	}
	absent := func(node string, reason problem.Reason, message string) Report {
		return Report{Node: node, Passed: []string{}, Problems: []problem.Problem{problem.New(reason, problem.Subject{}, "%s", message)}}
	}
	return NewCluster([]Report{
		NewReport("node1", []string{"forwarding"}, []problem.Problem{unknown, shared("on eth0")}),
		NewReport("node2", []string{}, []problem.Problem{found(problem.Error, "ports", "no \x1b[31mkubelet", "refused", "start it"), unknown, shared("on eth1")}),
		absent("node3", problem.NoAnswer, "it hangs"),
		absent("node4", problem.NotManaged, "it is virtual"),
	})
}

func TestPrintCluster(t *testing.T) {
	for name, c := range map[string]struct {
		format Format
		want   string
	}{
		"brief": {Format{Output: "table"}, `error: ports: no \u001b[31mkubelet
  on 1 of 4 nodes: node2
  evidence: refused
  remediation: start it
error: NoAnswer: it hangs
  on 1 of 4 nodes: node3
  remediation: Check that the node's kubelet is up and the API server reaches it (port 10250), and that the agent listens there (--listen). If so, the agent hangs: delete its pod, which interrupts no traffic. Routes stay unchanged meanwhile.
warning: neighbors: node9 is away
  on 2 of 4 nodes: node1 and node2
  evidence of node1: on eth0
  remediation: bring it back
2 of 4 nodes examined: 1 check passed, 1 error, 2 warnings, 2 unknown (--verbose shows why)
`},
		"verbose": {Format{Output: "table", Verbose: true}, `error: ports: no \u001b[31mkubelet
  on 1 of 4 nodes: node2
  evidence: refused
  remediation: start it
error: NoAnswer: it hangs
  on 1 of 4 nodes: node3
  remediation: Check that the node's kubelet is up and the API server reaches it (port 10250), and that the agent listens there (--listen). If so, the agent hangs: delete its pod, which interrupts no traffic. Routes stay unchanged meanwhile.
warning: neighbors: node9 is away
  on 2 of 4 nodes: node1 and node2
  evidence of node1: on eth0
  remediation: bring it back
unknown: leases: no such folder
  on 2 of 4 nodes: node1 and node2
  remediation: mount it
info: NotManaged: it is virtual
  on 1 of 4 nodes: node4
ok: forwarding
  on 1 of 4 nodes
2 of 4 nodes examined: 1 check passed, 1 error, 2 warnings, 2 unknown (--verbose shows why)
`},
	} {
		var b strings.Builder
		if err := four().Print(&b, c.format); err != nil || b.String() != c.want {
			t.Errorf("%s: %v, it is\n%s", name, err, b.String())
		}
	}
}

// JSON has all Reports, by node.
func TestPrintClusterAsJSON(t *testing.T) {
	var b strings.Builder
	if err := four().Print(&b, Format{Output: "json"}); err != nil {
		t.Fatal(err)
	}
	var got Cluster
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil || !reflect.DeepEqual(&got, four()) {
		t.Errorf("%v, it is\n%s", err, b.String())
	}
}

// Only failures, and nodes that should have answered, count for the exit code.
func TestClusterOK(t *testing.T) {
	c := four()
	for i, want := range map[int]bool{0: true, 1: false, 2: false, 3: true} {
		if one := (&Cluster{Nodes: c.Nodes[i : i+1]}); one.OK() != want {
			t.Errorf("%+v is OK: %t", one, !want)
		}
	}
}

// Printing thousands of nodes takes a few lines, and not long.
func TestPrintLargeCluster(t *testing.T) {
	c := &Cluster{}
	for i := range 5000 {
		var found []problem.Problem
		for _, check := range append(problem.Checks(), "a", "b", "c", "d", "e") {
			found = append(found, problem.Problem{Reason: problem.ReasonOf(check), Severity: problem.Warning, Message: "the same everywhere"})
		}
		c.Nodes = append(c.Nodes, NewReport(fmt.Sprintf("node%04d", i), []string{}, found))
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
