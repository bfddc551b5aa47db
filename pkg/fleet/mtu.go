package fleet

import (
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// oversize finds Nodes whose pods send larger packets than the links of others take. A link drops what is larger than its
// MTU, and no router between the Nodes answers "packet too big".
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

// mtus are how large a packet a Node's pods send, and how large a one its links take; 0: not known.
func (r *Row) mtus() (sent, taken int) {
	if r.Report == nil || len(r.Report.Host.Uplinks) == 0 {
		return 0, 0
	}
	least := slices.MinFunc(r.Report.Host.Uplinks, func(a, b status.Uplink) int { return a.MTU - b.MTU })
	return r.Report.Host.MTU, least.MTU
}
