package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
)

// problems returns everything that is wrong with a Row.
func (r *Row) problems() []problem.Problem {
	if r.Report == nil {
		return []problem.Problem{problem.New(r.NoReport, problem.Subject{}, "%s", cmp.Or(r.Message, string(r.NoReport)))}
	}
	var list []problem.Problem
	more := func(count, kept int, what string) {
		if count > kept {
			list = append(list, problem.New(problem.MoreProblems, problem.Subject{}, "%s", text.More(count-kept, what)))
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

// crossProblems returns the Problems that all reports together show.
func (d *aggregator) crossProblems() []problem.Group {
	return append([]problem.Group{}, slices.Concat(d.disputes(), d.cluster.asymmetries(), d.cluster.oversize(), d.cluster.tunnels(), d.cluster.versions())...)
}

// crossProblem returns a Group of at most Kept Nodes.
func crossProblem(reason problem.Reason, nodes []string, format string, args ...any) problem.Group {
	return problem.Group{Problem: problem.New(reason, problem.Subject{}, format, args...), Nodes: truncated(nodes)}
}

// asymmetries returns a Group for each Node that lacks routes back.
func (c *Cluster) asymmetries() []problem.Group {
	var groups []problem.Group
	for to := range c.Nodes {
		count := 0
		var names []string
		for from := range c.Nodes {
			if c.Cell(from, to) != Routed || !c.Cell(to, from).Bad() {
				continue
			}
			if count++; len(names) < Kept-1 {
				names = append(names, c.Nodes[from].Node)
			}
		}
		if count > 0 {
			groups = append(groups, crossProblem(problem.Asymmetry, append([]string{c.Nodes[to].Node}, names...),
				"%s has no route back to %s, which can reach its pods but get no answer", c.Nodes[to].Node, some(names, count)))
		}
	}
	return groups
}

// versions returns a Group unless all agents are of one version.
func (c *Cluster) versions() []problem.Group {
	return c.different(problem.Versions, (*Row).Version, "agents are of different versions")
}

// tunnels returns a Group if nodes have different settings of --encapsulation, as during a change, and
// one if those of which tunnels are used differ in port or VNI, so that packets between them are lost.
func (c *Cluster) tunnels() []problem.Group {
	encapsulation := func(r *Row) string {
		if r.Report == nil || r.Report.Host.Router {
			return ""
		}
		return string(r.Report.Host.Encapsulation)
	}
	port := func(r *Row) string {
		if r.Report == nil || r.Count.Tunnels == 0 || len(r.Report.State.Tunnels) == 0 {
			return ""
		}
		return fmt.Sprintf("UDP port %d and VNI %d", r.Report.State.Tunnels[0].Port, r.Report.State.Tunnels[0].VNI)
	}
	return append(c.different(problem.TunnelMismatch, port, "packets in tunnels between these nodes are lost, because the tunnels differ"),
		c.different(problem.MixedEncapsulation, encapsulation, "nodes have different settings of --encapsulation")...)
}

// different returns a Group unless a property is the same for all Nodes of which it is known.
func (c *Cluster) different(reason problem.Reason, property func(*Row) string, what string) []problem.Group {
	nodes := map[string][]string{}
	for i := range c.Nodes {
		if v := property(&c.Nodes[i]); v != "" {
			nodes[v] = append(nodes[v], c.Nodes[i].Node)
		}
	}
	if len(nodes) < 2 {
		return nil
	}
	order := slices.SortedFunc(maps.Keys(nodes), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(nodes[b]), len(nodes[a])), cmp.Compare(a, b))
	})
	var counts, others []string
	for i, v := range order {
		counts = append(counts, fmt.Sprintf("%s on %s", v, some(nodes[v], len(nodes[v]))))
		if i > 0 {
			others = append(others, nodes[v]...)
		}
	}
	slices.Sort(others)
	return []problem.Group{crossProblem(reason, others, "%s: %s", what, strings.Join(counts, ", "))}
}

// some joins the first names, and adds how many more there are.
func some(names []string, count int) string {
	if count > 3 {
		return text.Some(names, count, 2)
	}
	return text.Some(names, count, count)
}

// trimmed formats a message whose last part may be empty.
func trimmed(format string, args ...any) string {
	return strings.TrimSuffix(fmt.Sprintf(format, args...), ": ")
}

// oversize returns a Group if pods of a Node send larger packets than the links of others take.
// Such a link drops them, and no router between the Nodes sends "packet too big".
func (c *Cluster) oversize() []problem.Group {
	largest, smallest := 0, 0
	for i := range c.Nodes {
		sent, taken := c.Nodes[i].mtus()
		largest = max(largest, sent)
		if smallest == 0 || taken > 0 && taken < smallest {
			smallest = taken
		}
	}
	if smallest == 0 || largest <= smallest {
		return nil
	}
	var from, to []string
	for i := range c.Nodes {
		sent, taken := c.Nodes[i].mtus()
		if sent > smallest {
			from = append(from, c.Nodes[i].Node)
		}
		if taken > 0 && taken < largest {
			to = append(to, c.Nodes[i].Node)
		}
	}
	return []problem.Group{crossProblem(problem.Oversize, to,
		"pods of %s send packets of up to %d bytes, and %s can take but %d: connections there open, and hang when data flows",
		some(from, len(from)), largest, some(to, len(to)), smallest)}
}

// mtus returns the largest packet that a Node sends for its pods, with what a tunnel adds, and that
// its links take; 0: unknown.
func (r *Row) mtus() (sent, taken int) {
	if r.Report == nil || len(r.Report.Host.Uplinks) == 0 {
		return 0, 0
	}
	host := &r.Report.Host
	taken = slices.MinFunc(host.Uplinks, func(a, b status.Uplink) int { return a.MTU - b.MTU }).MTU
	return max(host.MTU, min(host.MTU+host.Encapsulation.Overhead(host.Subnets), taken)), taken
}
