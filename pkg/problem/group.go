package problem

import (
	"cmp"
	"slices"
)

// Group is one Problem and the Nodes that report it.
type Group struct {
	Problem
	Nodes []string `json:"nodes,omitempty"`
	// OwnEvidence and OwnRemediation report that evidence or remediation differ between the Nodes;
	// the Problem has those of the first.
	OwnEvidence    bool `json:"-"`
	OwnRemediation bool `json:"-"`
}

// Groups collects Problems, and merges those that Nodes share: the same Reason, Subject and
// Message.
type Groups struct {
	index map[Problem]*Group
	order []*Group
}

// Grouped returns the Problems of one node, sorted as Sorted does.
func Grouped(problems []Problem) []Group {
	var groups Groups
	for _, p := range problems {
		groups.Add("", p)
	}
	return groups.Sorted()
}

// Add adds a Problem that a Node reports; with an empty name it is not attributed to a Node.
func (g *Groups) Add(node string, p Problem) {
	p = p.Complete()
	key := p
	key.Evidence, key.Remediation = "", ""
	if g.index == nil {
		g.index = map[Problem]*Group{}
	}
	group := g.index[key]
	if group == nil {
		group = &Group{Problem: p}
		g.index[key], g.order = group, append(g.order, group)
	}
	group.OwnEvidence = group.OwnEvidence || group.Evidence != p.Evidence
	group.OwnRemediation = group.OwnRemediation || group.Remediation != p.Remediation
	if node != "" && !slices.Contains(group.Nodes[max(0, len(group.Nodes)-1):], node) { // a Node may report it twice
		group.Nodes = append(group.Nodes, node)
	}
}

// rank is the order in which severities are printed.
var rank = map[Severity]int{Error: 0, Warning: 1, Unknown: 2, Info: 3}

// Sorted returns the groups: the most severe first, among equals those of most Nodes, then in order
// of addition. Groups of one Reason stay together.
func (g *Groups) Sorted() []Group {
	type position struct{ rank, nodes, first int }
	best := map[Reason]position{}
	for i, group := range g.order {
		now, known := best[group.Reason]
		if !known {
			now = position{rank[group.Severity], 0, i}
		}
		now.rank, now.nodes = min(now.rank, rank[group.Severity]), max(now.nodes, len(group.Nodes))
		best[group.Reason] = now
	}
	sorted := make([]Group, len(g.order))
	for i, group := range g.order {
		sorted[i] = *group
	}
	slices.SortStableFunc(sorted, func(a, b Group) int {
		p, q := best[a.Reason], best[b.Reason]
		return cmp.Or(
			cmp.Compare(p.rank, q.rank), cmp.Compare(q.nodes, p.nodes), cmp.Compare(p.first, q.first),
			cmp.Compare(rank[a.Severity], rank[b.Severity]), cmp.Compare(len(b.Nodes), len(a.Nodes)),
		)
	})
	return sorted
}
