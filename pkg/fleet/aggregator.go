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
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// aggregator takes Reports, one at a time, and keeps of each only the parts that are used.
type aggregator struct {
	cluster *Cluster
	index   map[string]int

	mu     sync.Mutex
	claims map[netip.Prefix][]claim // the Nodes that own a subnet by some report, nearly always one
}

// claim is a Node's ownership of a subnet, by a number of reports.
type claim struct {
	node  string
	count int
	first string // Node whose report has it
}

func newAggregator(c *Cluster) *aggregator {
	d := &aggregator{cluster: c, index: make(map[string]int, len(c.Nodes)), claims: map[netip.Prefix][]claim{}}
	for i := range c.Nodes {
		d.index[c.Nodes[i].Node] = i
	}
	return d
}

// add fills a Row from its agent's report.
func (d *aggregator) add(row *Row, report *status.Report) {
	row.Routes = d.cells(row, report.Peers)
	bad := slices.DeleteFunc(slices.Clone(report.Peers), func(p status.Peer) bool { return p.State == status.OK })
	row.Count = Count{
		Peers: len(report.Peers), OK: len(report.Peers) - len(bad),
		Problems: len(report.Problems), Drift: len(report.Drift.Differences), Tunnels: tunneled(report.Peers),
	}
	d.claim(report)
	report.Peers = truncated(bad)
	report.Problems = truncated(report.Problems)
	report.Drift.Differences = truncated(report.Drift.Differences)
	report.Passes = truncated(report.Passes)
	row.Report = report
}

// tunneled counts the peers that are reached by a tunnel.
func tunneled(peers []status.Peer) (n int) {
	for i := range peers {
		if peers[i].Path == topology.PathTunnel {
			n++
		}
	}
	return n
}

// truncated returns the first Kept entries in memory of their own, so that the full list can be
// freed.
func truncated[T any](list []T) []T {
	return append(make([]T, 0, min(len(list), Kept)), list[:min(len(list), Kept)]...)
}

// cells returns how a Row's Node reaches each other.
func (d *aggregator) cells(row *Row, peers []status.Peer) Cells {
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
		cell, known := cellOf[peers[i].State]
		if !known {
			cell = Failed // a state of a later version: not ok
		}
		if to, ok := d.index[peers[i].Node]; ok && cells[to] != Self && (!seen[to] || cell > cells[to]) {
			cells[to], seen[to] = cell, true
		}
	}
	return cells
}

func (d *aggregator) claim(report *status.Report) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, subnet := range report.Host.Subnets {
		d.count(subnet, report.Node, report.Node)
	}
	for i := range report.Peers {
		if p := &report.Peers[i]; p.Via.IsValid() || p.Path != "" {
			d.count(p.Subnet, p.Node, report.Node)
		}
	}
}

func (d *aggregator) count(subnet netip.Prefix, node, by string) {
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
		return fmt.Sprintf("%s (by %s)", c.node, c.first)
	}
	return fmt.Sprintf("%s (by %s %s)", c.node, c.first, text.More(c.count-1, ""))
}

// disputes returns a Group for each subnet that reports attribute to different Nodes, as a whole or
// in part.
func (d *aggregator) disputes() []problem.Group {
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

// dispute returns the Group of overlapping subnets, and whether several Nodes own them.
func (d *aggregator) dispute(subnets []netip.Prefix) (problem.Group, bool) {
	var claimants, nodes []string
	for _, subnet := range subnets {
		claims := d.claims[subnet]
		slices.SortFunc(claims, func(a, b claim) int { return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.node, b.node)) })
		for _, c := range claims {
			claimant := c.String()
			if subnet != subnets[0] {
				claimant = fmt.Sprintf("%s has %s", claimant, subnet)
			}
			claimants = append(claimants, claimant)
			if !slices.Contains(nodes, c.node) {
				nodes = append(nodes, c.node)
			}
		}
	}
	return crossProblem(problem.Disagreement, nodes, "agents attribute %s to different nodes: %s", subnets[0], strings.Join(claimants, ", ")), len(nodes) > 1
}
