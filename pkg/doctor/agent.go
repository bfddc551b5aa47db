package doctor

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// maxRemedies bounds how many of the agent's remediations are repeated; `plainroute status` prints all.
const maxRemedies = 3

// agentProblems reports the agent's own problems, so that such a node does not count as healthy.
func agentProblems(_ context.Context, t *Target) []problem.Problem {
	switch {
	case t.Report == nil && errors.Is(t.ReportErr, context.DeadlineExceeded):
		return Fail("the agent runs and does not answer, so it may neither repair routes nor add new ones", errorText(t.ReportErr),
			"delete its pod, which cuts no traffic, once you have its log (kubectl logs)")
	case t.Report == nil:
		return Warn("no agent answers on this node, so routes stay as they are whatever changes in the cluster", errorText(t.ReportErr),
			"kubectl get pods -A -l app.kubernetes.io/part-of=plainroute -o wide, and the log of the pod that should run here")
	}
	var evidence, remedies []string
	for _, p := range t.Report.All() {
		evidence = append(evidence, p.String())
		if p.Remediation != "" && !slices.Contains(remedies, p.Remediation) && len(evidence) <= maxRemedies {
			remedies = append(remedies, p.Remediation)
		}
	}
	shown, remedy := first(evidence), strings.Join(remedies, " ")
	switch {
	case !t.Report.Ready:
		return Fail("the agent reports that this node is not ready for pods", shown, remedy)
	case slices.ContainsFunc(t.Report.Problems, isLasting):
		return Fail("the agent can't keep objects in place that pods need: another program removes them, or the kernel refuses them", shown, remedy)
	case len(evidence) > 0:
		return Warn("the agent reports problems", shown, remedy)
	}
	return nil
}

// isLasting reports whether an object is missing from the kernel most of the time, if not right now.
func isLasting(p problem.Problem) bool {
	return p.Reason == problem.Contested || p.Reason == problem.RouteFailed
}
