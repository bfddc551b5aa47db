package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/finding"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Whatever else is well: what the agent complains of is told, with its cure.
func TestAgentsWord(t *testing.T) {
	off := topology.Problem{Node: "node2", Reason: topology.OffLink, Detail: "this host has no route to it"}
	undone := topology.Problem{Node: "node3", Reason: topology.Contested, Detail: "somebody takes away the route"}
	refused := topology.Problem{Node: "node4", Reason: topology.RouteFailed, Detail: "no buffer space"}
	for _, c := range []struct {
		report *status.Report
		err    error
		want   Verdict
		words  string
	}{
		{&status.Report{Ready: true}, nil, OK, ""},
		{&status.Report{Ready: true, Problems: []topology.Problem{off}}, nil, Warning, "node node2: OffLink: this host has no route to it|Bring up this machine's link"},
		{&status.Report{Problems: []topology.Problem{off, off, off, off}}, nil, Failure, "; and 1 more|Bring up"},
		{&status.Report{Ready: true, API: status.API{Error: "connection refused"}}, nil, Warning, "can't ask the API server: connection refused|See that the API server is up"},
		{&status.Report{Ready: true, Drift: status.Drift{Differences: []status.Difference{{Kind: "route", Fault: status.Missing, Name: "10.244.2.0/24"}}}}, nil, Warning, "missing route 10.244.2.0/24|The agent puts things right"},
		{&status.Report{Ready: true, Problems: []topology.Problem{off, undone}}, nil, Failure, "Contested: somebody takes away the route|Bring up this machine's link"},
		{&status.Report{Ready: true, Problems: []topology.Problem{refused}}, nil, Failure, "RouteFailed: no buffer space|the agent tries again"},
		{nil, errors.New("connection refused"), Warning, "connection refused|kubectl get pods"},
		{nil, fmt.Errorf("it says nothing for 5s: %w", context.DeadlineExceeded), Failure, "it says nothing|delete its pod"},
	} {
		p := &Patient{Report: c.report, ReportErr: c.err}
		found := agentsWord(t.Context(), p)
		if finding.Worst(found) != c.want {
			t.Errorf("%+v: got %v, want %s", c.report, found, c.want)
			continue
		}
		if evidence, cure, _ := strings.Cut(c.words, "|"); c.want != OK && (!strings.Contains(found[0].Evidence, evidence) || !strings.Contains(found[0].Cure, cure)) {
			t.Errorf("%+v: got %v, want %s", c.report, found[0], c.words)
		}
	}
}
