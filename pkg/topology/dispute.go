package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// settle gives each address to one Node at most. Claims come sorted, so those that overlap stand
// together, behind the widest of them.
func (b *builder) settle(claims []claim) {
	if len(b.judge.nodes) > 0 {
		claims = slices.DeleteFunc(claims, b.hiding)
	}
	b.claims = claims[:0]
	for len(claims) > 0 {
		n := 1
		for n < len(claims) && claims[0].subnet.Contains(claims[n].subnet.Addr()) {
			n++
		}
		if n == 1 {
			b.claims = append(b.claims, claims[0])
		} else {
			b.claims = append(b.claims, b.contest(claims[:n])...)
		}
		claims = claims[n:]
	}
	b.desired.granted = b.claims
	b.shared()
}

// hiding reports whether a claim is refused because it would hide another Node's InternalIP.
func (b *builder) hiding(c claim) bool {
	older := b.judge.hides(&c)
	if older == nil || b.right(&c) > 0 {
		return false
	}
	b.report(problem.Problem{
		Subject: problem.Subject{Node: c.node.Name, Subnet: c.subnet}, Reason: problem.PodCIDRRefused,
		Message: fmt.Sprintf("podCIDR %s overlaps an InternalIP of node %s", c.subnet, older.Name),
	})
	return true
}

// contest returns the winners among claims that the first of them contains, sorted, and reports the
// others. In the order of their right, each gets all of its subnet if no part of it is taken yet.
func (b *builder) contest(claims []claim) []claim {
	order := make([]contestant, len(claims))
	plots := make([]plot, 0, len(claims))
	at := -1
	for i := range claims {
		c := &claims[i]
		for at >= 0 && !plots[at].subnet.Contains(c.subnet.Addr()) {
			at = plots[at].outer
		}
		if at < 0 || plots[at].subnet != c.subnet {
			plots = append(plots, plot{subnet: c.subnet, outer: at})
			at = len(plots) - 1
		}
		order[i] = contestant{c, b.right(c), at}
	}
	inOrder := slices.Clone(order)
	slices.SortFunc(inOrder, contestant.compare)
	for _, c := range inOrder {
		take(plots, c)
	}
	var winners []claim
	for _, c := range order {
		if plots[c.plot].owner == c.claim {
			winners = append(winners, *c.claim)
			continue
		}
		b.report(problem.Problem{Subject: problem.Subject{Node: c.node.Name, Subnet: c.subnet}, Reason: problem.PodCIDRDisputed, Message: lost(plots, c)})
	}
	return winners
}

// A contestant is a claim to a plot that others claim too, or parts of it, or more.
type contestant struct {
	*claim
	right int
	plot  int
}

// compare orders by who has the better right.
func (c contestant) compare(o contestant) int {
	return cmp.Or(cmp.Compare(o.right, c.right), c.node.compareAge(o.node))
}

// right returns by what a claim goes before others, whatever their lengths; more is better: it was
// granted in the pass before, our table sends the subnet to its Node, or to another InternalIP of
// that Node, for a Node may get a better one.
func (b *builder) right(c *claim) int {
	if b.granted(c) {
		return 3
	}
	switch r, ok := b.inPlace(c.subnet); {
	case ok && c.dev != "" && r.Via == c.addr:
		return 2
	case ok && slices.Contains(c.node.Addrs, r.Via):
		return 1
	}
	return 0
}

// A plot is a subnet that is claimed. Prefixes never cross, so plots are nested:
//
//	|------------- /22 -------------|   a claim is free to be granted if its plot has no owner,
//	|- /24 -|  |--- /23 ---|            none of those around it has one, and it has no part
//	           |- /24 -|                with an owner
type plot struct {
	subnet netip.Prefix
	outer  int    // the plot around this one; -1: none
	owner  *claim // who has it
	part   *claim // who was the first to get a part of it
	parts  int    // how many have parts of it
}

// take grants a claim if its plot is free. Plots are nested as deep as there are lengths.
func take(plots []plot, c contestant) {
	if plots[c.plot].part != nil {
		return
	}
	for i := c.plot; i >= 0; i = plots[i].outer {
		if plots[i].owner != nil {
			return
		}
	}
	plots[c.plot].owner = c.claim
	for i := plots[c.plot].outer; i >= 0; i = plots[i].outer {
		plots[i].parts++
		plots[i].part = cmp.Or(plots[i].part, c.claim)
	}
}

// lost says who has what a claim was not granted.
func lost(plots []plot, c contestant) string {
	for i := c.plot; i >= 0; i = plots[i].outer {
		if owner := plots[i].owner; owner != nil {
			return belongs(c.subnet, owner.subnet, owner.node.Name)
		}
	}
	p := plots[c.plot]
	detail := belongs(c.subnet, p.part.subnet, p.part.node.Name)
	if p.parts > 1 {
		detail += fmt.Sprintf(", and subnets of other Nodes (%d)", p.parts-1)
	}
	return detail
}

// belongs is said of a subnet that another Node has, or one that overlaps it.
func belongs(p, has netip.Prefix, node string) string {
	if p == has {
		return fmt.Sprintf("podCIDR %s belongs to node %s", p, node)
	}
	return fmt.Sprintf("podCIDR %s overlaps %s, which belongs to node %s", p, has, node)
}
