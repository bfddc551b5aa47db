package fleet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Complaint is something to say against a Row, in words, and what to do about it, if that is known.
type Complaint struct {
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

// complaints are all that is to say against a Row. What came over the network is made printable: it must not steer a
// terminal.
func (r *Row) complaints() []Complaint {
	if r.Report == nil {
		return []Complaint{complaint(r.Silence.Advice(), "%s", cmp.Or(r.Detail, string(r.Silence)))}
	}
	var list []Complaint
	say := func(advice, format string, args ...any) { list = append(list, complaint(advice, format, args...)) }
	more := func(count, kept int, what string) {
		if count > kept {
			say("", "and %d %s more", count-kept, what)
		}
	}
	about := map[string]bool{}
	for _, p := range r.Report.Problems {
		about[p.Node] = true
		if p.Node == r.Node && p.Reason.Subject() == topology.OfHost {
			p.Node = "" // the Block has the name: what befalls many machines is to be said once
		}
		say(p.Reason.Advice(), "%s", p)
	}
	more(r.Count.Problems, len(r.Report.Problems), "problems")
	var said []netip.Prefix
	for i := range r.Report.Peers {
		p := &r.Report.Peers[i]
		if about[p.Node] { // it was said already
			continue
		}
		said = append(said, p.Subnet)
		say(ofPeer(p), "no route to %s of %s: %s: %s", p.Subnet, p.Node, p.State, p.Detail)
	}
	more(r.Count.Peers-r.Count.OK, len(r.Report.Peers), "peers that are not ok")
	for i := range r.Report.Drift.Differences {
		d := &r.Report.Drift.Differences[i]
		if slices.ContainsFunc(said, d.IsRouteTo) {
			continue // this, too
		}
		say(status.DriftAdvice, "%s %s %s", d.Fault, d.Kind, d.Name)
	}
	more(r.Count.Drift, len(r.Report.Drift.Differences), "differences")
	if e := r.Report.Drift.Error; e != "" {
		say(topology.KernelFailed.Advice(), "can't compare with the kernel: %s", e)
	}
	if e := r.Report.API.Error; e != "" {
		say(topology.APIUnavailable.Advice(), "can't ask the API server: %s", e)
	}
	if r.Report.Ready && r.NotReady != "" {
		say(adviceOfRuntime, "the agent is ready, and the node is not: %s", r.NotReady)
	}
	if !r.Report.Ready && len(list) == 0 {
		say(adviceOfLog, "not ready, and does not say why")
	}
	return list
}

func complaint(advice, format string, args ...any) Complaint {
	return Complaint{status.Printable(strings.TrimSuffix(fmt.Sprintf(format, args...), ": ")), advice}
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
