package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// digest takes Reports in, one at a time, and keeps of each what is needed.
type digest struct {
	cluster *Cluster
	index   map[string]int

	mu sync.Mutex
	// claims say who has a subnet, by those who route to it or are on it: nearly always one.
	claims map[netip.Prefix][]claim
}

// claim is that a Node has a subnet, and who says so.
type claim struct {
	node  string
	count int
	first string // of those who say so
}

func newDigest(c *Cluster) *digest {
	d := &digest{cluster: c, index: make(map[string]int, len(c.Nodes)), claims: map[netip.Prefix][]claim{}}
	for i := range c.Nodes {
		d.index[c.Nodes[i].Node] = i
	}
	return d
}

// add fills a Row with what its agent said.
func (d *digest) add(row *Row, report *status.Report) {
	row.Routes = d.cells(row, report.Peers)
	bad := slices.DeleteFunc(slices.Clone(report.Peers), func(p status.Peer) bool { return p.State == status.OK })
	row.Count = Count{
		Peers: len(report.Peers), OK: len(report.Peers) - len(bad),
		Problems: len(report.Problems), Drift: len(report.Drift.Differences),
	}
	d.mu.Lock()
	d.claim(report)
	d.mu.Unlock()
	report.State = topology.State{}
	report.Peers = first(bad)
	report.Problems = first(report.Problems)
	report.Drift.Differences = first(report.Drift.Differences)
	report.Passes = first(report.Passes)
	row.Report = report
}

// first are the first Kept, in memory of their own: what they were cut from can go.
func first[T any](list []T) []T {
	kept := make([]T, min(len(list), Kept))
	copy(kept, list)
	return kept
}

// cells says how a Row's Node reaches each other.
func (d *digest) cells(row *Row, peers []status.Peer) Cells {
	cells := make(Cells, len(d.cluster.Nodes))
	for i := range cells {
		switch n := &d.cluster.Nodes[i]; {
		case n.Node == row.Node:
			cells[i] = Self
		case len(n.Subnets) == 0, n.NoReport == problem.NotManaged:
			cells[i] = Nothing
		default:
			cells[i] = Unknown
		}
	}
	seen := make([]bool, len(cells))
	for i := range peers {
		to, ok := d.index[peers[i].Node]
		if !ok || cells[to] == Self {
			continue
		}
		cell, ok := states[peers[i].State]
		if !ok {
			cell = Failed // a state that a later version may have: not ok
		}
		if !seen[to] || cell > cells[to] {
			cells[to], seen[to] = cell, true
		}
	}
	return cells
}

func (d *digest) claim(report *status.Report) {
	for _, subnet := range report.Host.Subnets {
		d.count(subnet, report.Node, report.Node)
	}
	for i := range report.Peers {
		if p := &report.Peers[i]; p.Via.IsValid() {
			d.count(p.Subnet, p.Node, report.Node)
		}
	}
}

func (d *digest) count(subnet netip.Prefix, node, by string) {
	list := d.claims[subnet]
	i := slices.IndexFunc(list, func(c claim) bool { return c.node == node })
	if i < 0 {
		d.claims[subnet] = append(list, claim{strings.Clone(node), 1, strings.Clone(by)})
		return
	}
	list[i].count++
	list[i].first = min(list[i].first, by)
}

func (c claim) String() string {
	if c.count == 1 {
		return fmt.Sprintf("%s (says %s)", c.node, c.first)
	}
	return fmt.Sprintf("%s (say %s and %d more)", c.node, c.first, c.count-1)
}

// disputes are the subnets of which reports don't say the same: one says that a Node has it, another that some other
// Node has it, or one that overlaps it.
func (d *digest) disputes() []problem.Group {
	var groups []problem.Group
	subnets := slices.SortedFunc(maps.Keys(d.claims), topology.ComparePrefix)
	for len(subnets) > 0 {
		n := 1
		for n < len(subnets) && subnets[0].Contains(subnets[n].Addr()) {
			n++
		}
		if group, disputed := d.dispute(subnets[:n]); disputed {
			groups = append(groups, group)
		}
		subnets = subnets[n:]
	}
	slices.SortFunc(groups, func(a, b problem.Group) int { return cmp.Compare(a.Message, b.Message) })
	return groups
}

// dispute reports whether several Nodes are said to have a subnet, or it and parts of it.
func (d *digest) dispute(subnets []netip.Prefix) (problem.Group, bool) {
	var said, nodes []string
	for _, subnet := range subnets {
		claims := d.claims[subnet]
		slices.SortFunc(claims, func(a, b claim) int { return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.node, b.node)) })
		for _, c := range claims {
			text := c.String()
			if subnet != subnets[0] {
				text = fmt.Sprintf("%s has %s", text, subnet)
			}
			said = append(said, text)
			if !slices.Contains(nodes, c.node) {
				nodes = append(nodes, c.node)
			}
		}
	}
	return crossProblem(problem.Disagreement, nodes, "agents do not agree who has %s: %s", subnets[0], strings.Join(said, ", ")), len(nodes) > 1
}
