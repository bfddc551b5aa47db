package fleet

import (
	"cmp"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// problems returns everything that is wrong with a Row.
func (r *Row) problems() []problem.Problem {
	if r.Report == nil {
		return []problem.Problem{problem.New(r.NoReport, problem.Subject{}, "%s", cmp.Or(r.Message, string(r.NoReport)))}
	}
	var list []problem.Problem
	more := func(count, kept int, what string) {
		if count > kept {
			list = append(list, problem.New(problem.MoreProblems, problem.Subject{}, "and %d %s more", count-kept, what))
		}
	}
	reported := map[string]bool{}
	for _, p := range r.Report.Problems {
		reported[p.Node] = true
		if p.Node == r.Node && p.Reason.Scope() == problem.OfHost {
			p.Node = "" // the same Problem of many machines is one Group
		}
		list = append(list, p)
	}
	more(r.Count.Problems, len(r.Report.Problems), "problems")
	routes := r.unreached(reported)
	list = append(list, routes...)
	more(r.Count.Peers-r.Count.OK, len(r.Report.Peers), "peers that are not ok")
	all := r.Report.All()[len(r.Report.Problems):]
	list = append(list, slices.DeleteFunc(all, func(p problem.Problem) bool {
		return p.Subnet.IsValid() && slices.ContainsFunc(routes, func(q problem.Problem) bool { return q.Subnet == p.Subnet })
	})...)
	more(r.Count.Drift, len(r.Report.Drift.Differences), "differences")
	if r.Report.Ready && r.NotReady != "" {
		list = append(list, problem.New(problem.NodeNotReady, problem.Subject{}, "the agent is ready, but the node is not: %s", r.NotReady))
	}
	if !r.Report.Ready && len(list) == 0 {
		list = append(list, problem.New(problem.NotReady, problem.Subject{}, "the agent is not ready and reports no reason"))
	}
	return list
}

// unreached returns a Problem for each peer without a good route, unless a reported Problem has the
// peer as subject.
func (r *Row) unreached(reported map[string]bool) []problem.Problem {
	var list []problem.Problem
	for i := range r.Report.Peers {
		p := &r.Report.Peers[i]
		if reported[p.Node] {
			continue
		}
		found := problem.Problem{
			Subject: problem.Subject{Node: p.Node, Subnet: p.Subnet}, Reason: problem.NoRoute, Severity: problem.Error,
			Message: trimmed("no route to %s: %s: %s", p.Subnet, p.State, p.Message),
		}
		for _, reason := range p.Reason {
			found.Remediation = cmp.Or(found.Remediation, reason.Remediation())
		}
		if p.State == status.Missing {
			found.Remediation = cmp.Or(found.Remediation, problem.Missing.Remediation())
		}
		list = append(list, found)
	}
	return list
}

// Groups returns all Problems of the Nodes; one that Nodes share is one Group.
func (c *Cluster) Groups() []problem.Group {
	var groups problem.Groups
	for i := range c.Nodes {
		if c.Nodes[i].NoReport == problem.NotManaged {
			continue
		}
		for _, p := range c.Nodes[i].problems() {
			groups.Add(c.Nodes[i].Node, p)
		}
	}
	return groups.Sorted()
}
