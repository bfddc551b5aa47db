package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Fault is what no single agent can see.
type Fault struct {
	Kind FaultKind `json:"kind"`
	// Nodes are those that it is about: at most Kept.
	Nodes  []string `json:"nodes"`
	Detail string   `json:"detail"`
	// Advice says what to do about it.
	Advice string `json:"advice"`
	// Note tells that it need not be wrong: in an update there are two versions.
	Note bool `json:"note,omitempty"`
}

// FaultKind names a kind of Fault.
type FaultKind string

// The kinds of Faults.
const (
	// Asymmetry is a Node that has no route to some that have one to it, so that it can't answer them.
	Asymmetry FaultKind = "Asymmetry"
	// Disagreement is a subnet that is one Node's for some and another's for others.
	Disagreement FaultKind = "Disagreement"
	// Oversize is that some Nodes' pods send larger packets than others' links take.
	Oversize FaultKind = "Oversize"
	// Versions is that agents are of more than one version.
	Versions FaultKind = "Versions"
)

// faults compares what all said.
func (d *digest) faults() []Fault {
	list := slices.Concat(d.disputes(), d.cluster.asymmetries(), d.cluster.oversize(), d.cluster.versions())
	if list == nil {
		list = []Fault{}
	}
	for i := range list {
		list[i].Advice = list[i].Kind.advice()
	}
	return list
}

// asymmetries has a Fault for each Node that lacks routes back.
func (c *Cluster) asymmetries() []Fault {
	var faults []Fault
	for to := range c.Nodes {
		fault, count := Fault{Kind: Asymmetry, Nodes: []string{c.Nodes[to].Node}}, 0
		var names []string
		for from := range c.Nodes {
			if c.Cell(from, to) != Routed || !c.Cell(to, from).Bad() {
				continue
			}
			if count++; len(names) < Kept-1 {
				names = append(names, c.Nodes[from].Node)
			}
		}
		if count == 0 {
			continue
		}
		fault.Nodes = append(fault.Nodes, names...)
		fault.Detail = fmt.Sprintf("%s has no route back to %s, which can reach its pods but get no answer", c.Nodes[to].Node, some(names, count))
		faults = append(faults, fault)
	}
	return faults
}

// versions is a note unless all agents are of one.
func (c *Cluster) versions() []Fault {
	nodes := map[string][]string{}
	for i := range c.Nodes {
		if v := c.Nodes[i].Version(); v != "" {
			nodes[v] = append(nodes[v], c.Nodes[i].Node)
		}
	}
	if len(nodes) < 2 {
		return nil
	}
	order := slices.SortedFunc(maps.Keys(nodes), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(nodes[b]), len(nodes[a])), cmp.Compare(a, b))
	})
	var said []string
	fault := Fault{Kind: Versions, Note: true}
	for i, v := range order {
		said = append(said, fmt.Sprintf("%s on %s", v, some(nodes[v], len(nodes[v]))))
		if i > 0 {
			fault.Nodes = append(fault.Nodes, nodes[v]...)
		}
	}
	slices.Sort(fault.Nodes)
	fault.Nodes = first(fault.Nodes)
	fault.Detail = "agents are of different versions: " + strings.Join(said, ", ")
	return []Fault{fault}
}

// some are the first three names, and how many there are.
func some(names []string, count int) string {
	const few = 3
	switch {
	case count == 1:
		return names[0]
	case count <= few:
		return strings.Join(names[:count-1], ", ") + " and " + names[count-1]
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few-1], ", "), count-few+1)
}
