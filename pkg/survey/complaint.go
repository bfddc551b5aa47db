package survey

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/status"
)

// Complaint is something to say against a Row, in words, and what to do about it, if that is known.
type Complaint struct {
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

// complaints are all that is to say against a Row. What came over the network is made printable: it must not steer a
// terminal.
func (r *Row) complaints() []Complaint {
	var list []Complaint
	say := func(format string, args ...any) {
		text := strings.TrimSuffix(fmt.Sprintf(format, args...), ": ")
		list = append(list, Complaint{Text: status.Printable(text)})
	}
	if r.Report == nil {
		say("%s", cmp.Or(r.Detail, string(r.Silence)))
		return list
	}
	about := map[string]bool{}
	for _, p := range r.Report.Problems {
		about[p.Node] = true
		list = append(list, Complaint{status.Printable(p.String()), p.Reason.Advice()})
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

// Block is what is to say against one Node or more.
type Block struct {
	Nodes []string    `json:"nodes"`
	Lines []Complaint `json:"lines"`
}

// Blocks are all Complaints; what many Nodes complain of is said once. Nodes with all the same to say share a Block, and
// what most complain of comes first.
func (c *Cluster) Blocks() []Block {
	saying := map[Complaint][]int{} // who
	var order []Complaint
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
	var blocks []Block
	index := map[string]int{}
	for _, line := range order {
		who := fmt.Sprint(saying[line])
		i, ok := index[who]
		if !ok {
			i = len(blocks)
			index[who] = i
			blocks = append(blocks, Block{Nodes: c.names(saying[line])})
		}
		blocks[i].Lines = append(blocks[i].Lines, line)
	}
	slices.SortStableFunc(blocks, func(a, b Block) int {
		return cmp.Or(cmp.Compare(len(b.Nodes), len(a.Nodes)), cmp.Compare(a.Nodes[0], b.Nodes[0]))
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
