package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// settle grants each address to one Node at most. Claims are sorted, so claims that overlap follow
// the widest of them.
func (b *builder) settle(claims []claim) {
	if len(b.validator.nodes) > 0 {
		claims = slices.DeleteFunc(claims, b.hides)
	}
	b.claims = make([]*claim, 0, len(claims))
	for len(claims) > 0 {
		n := 1
		for n < len(claims) && claims[0].subnet.Contains(claims[n].subnet.Addr()) {
			n++
		}
		if n == 1 {
			b.claims = append(b.claims, &claims[0])
		} else {
			b.claims = append(b.claims, b.decide(claims[:n])...)
		}
		claims = claims[n:]
	}
	b.desired.granted = b.claims
}

// hides reports whether a claim would hide the InternalIP of an older Node, or of one that had it
// before, and adds the Problem. Those of other younger Nodes do not count: a kubelet may write any
// address at any time.
func (b *builder) hides(c claim) bool {
	nodes := b.validator.nodes
	i, _ := slices.BinarySearchFunc(nodes, c.subnet.Addr(), func(h nodeAddr, addr netip.Addr) int { return h.addr.Compare(addr) })
	for ; i < len(nodes) && c.subnet.Contains(nodes[i].addr); i++ {
		if h := nodes[i]; (h.node.compareAge(c.node) < 0 || b.hadBefore(h)) && b.precedence(&c) == 0 {
			b.report(c.problem(problem.PodCIDRRefused, "podCIDR %s overlaps an InternalIP of node %s", c.subnet, h.node.Name))
			return true
		}
	}
	return false
}

// hadBefore reports whether a Node with a granted subnet had an InternalIP before.
func (b *builder) hadBefore(h nodeAddr) bool {
	subnet := h.node.podCIDR(h.addr.Is4())
	if before := b.grantOf(&claim{subnet: subnet, node: h.node}); before != nil {
		return before.addr == h.addr
	}
	r := b.inPlace(subnet)
	return r != nil && b.actual.Endpoint(r) == h.addr
}

// decide returns the granted ones of claims that the first of them contains, sorted, and reports
// the others. In the order of precedence, each gets its subnet if no part of it is granted.
func (b *builder) decide(claims []claim) []*claim {
	order := make([]candidate, len(claims))
	d := dispute{nest: newNest(len(claims))}
	for i := range claims {
		c := &claims[i]
		order[i] = candidate{c, b.precedence(c), d.add(c.subnet)}
	}
	d.blocks = make([]block, len(d.prefixes))
	slices.SortFunc(order, func(a, c candidate) int {
		return cmp.Or(cmp.Compare(c.precedence, a.precedence), a.node.compareAge(c.node))
	})
	for _, c := range order {
		d.grant(c)
	}
	for _, c := range order {
		if d.blocks[c.block].owner != c.claim {
			b.report(c.problem(problem.PodCIDRDisputed, "%s", d.refusal(c)))
		}
	}
	var winners []*claim
	for i := range d.blocks {
		if owner := d.blocks[i].owner; owner != nil {
			winners = append(winners, owner)
		}
	}
	return winners
}

// A candidate is a claim to a block that overlaps others.
type candidate struct {
	*claim
	precedence int
	block      int
}

// precedence returns the precedence of a claim, whatever its length; more is better. It is highest
// if the pass before granted it, then if the kernel's route leads to its Node, then if it leads to
// another InternalIP of its Node, because a Node may get a better one, or to a gateway.
func (b *builder) precedence(c *claim) int {
	if b.grantOf(c) != nil {
		return 3
	}
	switch r := b.inPlace(c.subnet); {
	case r != nil && c.ok() && b.actual.Endpoint(r) == c.addr:
		return 2
	case r != nil && b.mayLeadTo(r, c.node):
		return 1
	}
	return 0
}

// A dispute is about claimed subnets, the blocks:
//
//	|------------- /22 -------------|   a claim can be granted if its block has no owner, none of
//	|- /24 -|  |--- /23 ---|            those around it has one, and none of its parts has one
//	           |- /24 -|
type dispute struct {
	nest
	blocks []block
}

type block struct {
	owner *claim // the claim that it is granted to
	part  *claim // the first claim that was granted a part of it
	parts int    // the number of claims with parts of it
}

// owner returns the claim that a block or one around it is granted to, or nil. The nesting is at
// most as deep as there are lengths.
func (d *dispute) owner(i int) *claim {
	for ; i >= 0; i = d.outer[i] {
		if owner := d.blocks[i].owner; owner != nil {
			return owner
		}
	}
	return nil
}

// grant gives a claim its block if that is free.
func (d *dispute) grant(c candidate) {
	if d.blocks[c.block].part != nil || d.owner(c.block) != nil {
		return
	}
	d.blocks[c.block].owner = c.claim
	for i := d.outer[c.block]; i >= 0; i = d.outer[i] {
		d.blocks[i].parts++
		d.blocks[i].part = cmp.Or(d.blocks[i].part, c.claim)
	}
}

func (d *dispute) refusal(c candidate) string {
	if owner := d.owner(c.block); owner != nil {
		return belongs(c.subnet, owner.subnet, owner.node.Name)
	}
	p := d.blocks[c.block]
	detail := belongs(c.subnet, p.part.subnet, p.part.node.Name)
	if p.parts > 1 {
		detail += fmt.Sprintf(", and subnets of other Nodes (%d)", p.parts-1)
	}
	return detail
}

// belongs returns the reason to refuse a subnet that equals or overlaps another Node's.
func belongs(p, has netip.Prefix, node string) string {
	if p == has {
		return fmt.Sprintf("podCIDR %s belongs to node %s", p, node)
	}
	return fmt.Sprintf("podCIDR %s overlaps %s, which belongs to node %s", p, has, node)
}
