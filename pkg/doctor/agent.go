package doctor

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// told is how much of what the agent says is repeated: `plainroute status` has all.
const told = 3

// agentsWord is what the agent says of itself, so that nobody takes a node for well whose agent knows that it isn't.
func agentsWord(_ context.Context, p *Patient) []problem.Problem {
	switch {
	case p.Report == nil && errors.Is(p.ReportErr, context.DeadlineExceeded):
		return []problem.Problem{Fail("the agent is there and does not answer: it may repair nothing, and no change of the cluster may arrive", errorText(p.ReportErr),
			"delete its pod, which cuts no traffic, once you have its log (kubectl logs)")}
	case p.Report == nil:
		return []problem.Problem{Warn("no agent answers on this node: routes stay as they are, and no change of the cluster arrives", errorText(p.ReportErr),
			"kubectl get pods -A -l app.kubernetes.io/part-of=plainroute -o wide, and the log of the pod that should run here")}
	}
	var evidence, cures []string
	say := func(what, cure string) {
		evidence = append(evidence, what)
		if !slices.Contains(cures, cure) && cure != "" && len(evidence) <= told {
			cures = append(cures, cure)
		}
	}
	for _, found := range p.Report.All() {
		say(found.String(), found.Remediation)
	}
	switch {
	case !p.Report.Ready:
		return []problem.Problem{Fail("the agent says that this node's pods are not served as they should be", first(evidence), strings.Join(cures, " "))}
	case slices.ContainsFunc(p.Report.Problems, lasting):
		return []problem.Problem{Fail("the agent can't keep up what pods need: somebody undoes it, or the kernel refuses it", first(evidence), strings.Join(cures, " "))}
	case len(evidence) > 0:
		return []problem.Problem{Warn("the agent has something to complain of", first(evidence), strings.Join(cures, " "))}
	}
	return nil
}

// lasting tells of a Problem that something which should be in the kernel is not there most of the time, be it the route to one
// peer: the node may be ready all the same, and nothing is seen by who looks at what there is.
func lasting(p problem.Problem) bool {
	return p.Reason == problem.Contested || p.Reason == problem.RouteFailed
}
