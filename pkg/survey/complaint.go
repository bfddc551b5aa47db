package survey

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/status"
)

// complaint is something to say against a Row, in words, and what to do about it.
type complaint struct{ text, advice string }

// complaints are all that is to say against a Row. What came over the network is made printable: it must not steer a
// terminal.
func (r *Row) complaints() []complaint {
	var list []complaint
	say := func(format string, args ...any) {
		text := strings.TrimSuffix(fmt.Sprintf(format, args...), ": ")
		list = append(list, complaint{text: status.Printable(text)})
	}
	if r.Report == nil {
		say("%s", cmp.Or(r.Detail, string(r.Silence)))
		return list
	}
	about := map[string]bool{}
	for _, p := range r.Report.Problems {
		about[p.Node] = true
		list = append(list, complaint{status.Printable(p.String()), p.Reason.Advice()})
	}
	more := func(count, kept int, what string) {
		if count > kept {
			say("and %d %s more", count-kept, what)
		}
	}
	more(r.Count.Problems, len(r.Report.Problems), "problems")
	for _, p := range r.Report.Peers {
		if !about[p.Node] { // or it was said already
			say("no route to %s of %s: %s: %s", p.Subnet, p.Node, p.State, p.Detail)
		}
	}
	more(r.Count.Peers-r.Count.OK, len(r.Report.Peers), "peers that are not ok")
	for _, d := range r.Report.Drift.Differences {
		say("%s: %s", d.Fault, d.Name)
	}
	more(r.Count.Drift, len(r.Report.Drift.Differences), "differences")
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

// block is what is said of one Node or more.
type block struct {
	nodes []string
	lines []complaint
}

// blocks are all complaints; what many Nodes complain of is said once. Nodes with all the same to say share a block.
func (c *Cluster) blocks() []block {
	saying := map[complaint][]int{} // who
	var order []complaint
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
