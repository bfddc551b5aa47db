package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// The check agent repeats each problem that the agent reports, with its remediation.
func TestAgentProblems(t *testing.T) {
	off := problem.Problem{Subject: problem.Node("node2"), Reason: problem.OffLink, Message: "this host has no route to it"}
	undone := problem.Problem{Subject: problem.Node("node3"), Reason: problem.Contested, Message: "another program deletes the route"}
	sender := problem.Problem{Subject: problem.Node("node4"), Reason: problem.RouteFailed, Message: "no buffer space"}
	for _, c := range []struct {
		report *status.Report
		err    error
		want   problem.Severity
		words  string
	}{
		{&status.Report{Ready: true}, nil, problem.None, ""},
		{&status.Report{Ready: true, Problems: []problem.Problem{off}}, nil, problem.Warning, "node node2: OffLink: this host has no route to it|Bring up this machine's link"},
		{&status.Report{Problems: []problem.Problem{off, off, off, off}}, nil, problem.Error, "; and 1 more|Bring up"},
		{&status.Report{Ready: true, API: status.API{Error: "connection refused"}}, nil, problem.Warning, "can't ask the API server: connection refused|Check that the API server is up"},
		{&status.Report{Ready: true, Drift: status.Drift{Differences: []problem.Problem{{Reason: problem.Missing, Message: "route 10.244.2.0/24"}}}}, nil, problem.Warning, "Missing: route 10.244.2.0/24|The agent repairs it"},
		{&status.Report{Ready: true, Problems: []problem.Problem{off, undone}}, nil, problem.Error, "Contested: another program deletes the route|Bring up this machine's link"},
		{&status.Report{Ready: true, Problems: []problem.Problem{sender}}, nil, problem.Error, "RouteFailed: no buffer space|The agent tries again"},
		{nil, errors.New("connection refused"), problem.Warning, "connection refused|kubectl get pods"},
		{nil, fmt.Errorf("no answer for 5s: %w", context.DeadlineExceeded), problem.Error, "no answer|delete its pod"},
	} {
		p := &Target{Report: c.report, ReportErr: c.err}
		found := agentProblems(t.Context(), p)
		if worstOf(found) != c.want {
			t.Errorf("%+v: got %v, want %s", c.report, found, c.want)
			continue
		}
		if evidence, remedy, _ := strings.Cut(c.words, "|"); c.want != problem.None && (!strings.Contains(found[0].Evidence, evidence) || !strings.Contains(found[0].Remediation, remedy)) {
			t.Errorf("%s: got evidence %q and remediation %q, want %s", c.words, found[0].Evidence, found[0].Remediation, c.words)
		}
	}
}
