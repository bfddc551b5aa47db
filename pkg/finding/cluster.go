package finding

import (
	"cmp"
	"slices"
)

// Node is what was found on one, or why nothing was.
type Node struct {
	Node     string    `json:"node"`
	Findings []Finding `json:"findings,omitempty"`
	// Silence is why there are no findings, in a word; Detail the same in words, and
	// Cure what to do about it. Excused: none were to be expected, for no agent is meant to run there.
	Silence string `json:"silence,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Cure    string `json:"cure,omitempty"`
	Excused bool   `json:"excused,omitempty"`
}

// Cluster is what was found on all nodes.
type Cluster struct {
	Nodes []Node `json:"nodes"`
}

// OK tells that no check failed, on none of the nodes, and that all answered.
func (c *Cluster) OK() bool {
	return !slices.ContainsFunc(c.Nodes, func(n Node) bool {
		return n.Silence != "" && !n.Excused || Worst(n.Findings) == Failure
	})
}

// group is a finding, or a silence, that nodes share.
type group struct {
	Finding
	nodes []string
	// ownEvidence, ownCure: evidence or cure are not the same on all of them; those of the first are shown.
	ownEvidence, ownCure bool
}

// rank is in which order verdicts are shown.
var rank = map[Verdict]int{Failure: 0, Warning: 1, Skipped: 2, OK: 3}

// fold puts together what nodes share: the same fault found by the same check. What
// most of them have comes first among the equally bad.
func (c *Cluster) fold() []*group {
	type key struct {
		check   string
		verdict Verdict
		fault   string
	}
	groups := map[key]*group{}
	var order []*group
	for _, n := range c.Nodes {
		for _, f := range n.Findings {
			k := key{f.Check, f.Verdict, f.Fault}
			g := groups[k]
			if g == nil {
				g = &group{Finding: f}
				groups[k], order = g, append(order, g)
			}
			g.ownEvidence = g.ownEvidence || g.Evidence != f.Evidence
			g.ownCure = g.ownCure || g.Cure != f.Cure
			if !slices.Contains(g.nodes[max(0, len(g.nodes)-1):], n.Node) { // one node may have it twice
				g.nodes = append(g.nodes, n.Node)
			}
		}
	}
	slices.SortStableFunc(order, func(a, b *group) int {
		return cmp.Or(cmp.Compare(rank[a.Verdict], rank[b.Verdict]), cmp.Compare(len(b.nodes), len(a.nodes)))
	})
	return order
}

// silences puts together nodes that say nothing for the same reason.
func (c *Cluster) silences(excused bool) []*group {
	groups := map[string]*group{}
	var order []*group
	for _, n := range c.Nodes {
		if n.Silence == "" || n.Excused != excused {
			continue
		}
		g := groups[n.Detail]
		if g == nil {
			g = &group{Finding: Finding{Fault: n.Detail, Cure: n.Cure}}
			groups[n.Detail], order = g, append(order, g)
		}
		g.nodes = append(g.nodes, n.Node)
	}
	return order
}
