package survey

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/topology"
)

// complaints are all that is to say against a Row, in words, a line each.
func (r *Row) complaints() []string {
	if r.Report == nil {
		return []string{cmp.Or(r.Detail, string(r.Silence))}
	}
	var list []string
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	about := map[string]bool{}
	for _, p := range r.Report.Problems {
		about[p.Node] = true
		list = append(list, r.about(p))
	}
	if left := r.Count.Problems - len(r.Report.Problems); left > 0 {
		say("and %d problems more", left)
	}
	for _, p := range r.Report.Peers {
		if !about[p.Node] { // or it was said already
			say("%s", strings.TrimSuffix(fmt.Sprintf("no route to %s of %s: %s: %s", p.Subnet, p.Node, p.State, p.Detail), ": "))
		}
	}
	if left := r.Count.Peers - r.Count.OK - len(r.Report.Peers); left > 0 {
		say("and %d peers more that are not ok", left)
	}
	for _, d := range r.Report.Drift.Differences {
		say("%s: %s", d.Fault, d.Name)
	}
	if left := r.Count.Drift - len(r.Report.Drift.Differences); left > 0 {
		say("and %d differences more", left)
	}
	if e := r.Report.Drift.Error; e != "" {
		say("can't compare with the kernel: %s", e)
	}
	if e := r.Report.API.Error; e != "" {
		say("can't ask the API server: %s", e)
	}
	if !r.Report.Ready && len(list) == 0 {
		say("not ready, and does not say why")
	}
	return list
}

// about is a Problem as it is said below the node's name.
func (r *Row) about(p topology.Problem) string {
	if p.Node == r.Node {
		p.Node = ""
	}
	return p.String()
}

// block is what is said of one Node or more.
type block struct {
	nodes []string
	lines []string
}

// blocks are all complaints; what many Nodes complain of is said once. Nodes with all the same to say share a block.
func (c *Cluster) blocks() []block {
	saying := map[string][]int{} // complaint: who
	var order []string
	for i := range c.Nodes {
		for _, line := range c.Nodes[i].complaints() {
			if c.Nodes[i].Silence == NotManaged {
				continue
			}
			if saying[line] == nil {
				order = append(order, line)
			}
			if who := saying[line]; len(who) == 0 || who[len(who)-1] != i {
				saying[line] = append(who, i)
			}
		}
	}
	var blocks []block
	index := map[string]int{}
	for _, line := range order {
		who := fmt.Sprint(saying[line])
		i, ok := index[who]
		if !ok {
			i = len(blocks)
			index[who] = i
			blocks = append(blocks, block{nodes: c.names(saying[line])})
		}
		blocks[i].lines = append(blocks[i].lines, line)
	}
	slices.SortStableFunc(blocks, func(a, b block) int {
		return cmp.Or(cmp.Compare(len(b.nodes), len(a.nodes)), cmp.Compare(a.nodes[0], b.nodes[0]))
	})
	return blocks
}

func (c *Cluster) names(indices []int) []string {
	list := make([]string, len(indices))
	for i, n := range indices {
		list[i] = c.Nodes[n].Node
	}
	return list
}
