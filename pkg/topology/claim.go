package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A claim is a pod subnet that a Node says is its own.
type claim struct {
	subnet netip.Prefix
	node   *Node
	addr   netip.Addr       // the InternalIP that speaks for the Node: its next hop, if there is a link
	dev    string           // the link that it is on; empty: off link, or no address at all
	kept   *Route           // our route that stays as it is, whatever this host has against its next hop
	led    bool             // there was a route to this address since the subnet was granted
	why    *problem.Problem // why there is no link, or why the route is kept
}

// A judge decides which claims are accepted.
type judge struct {
	opts   Options
	own    *Node
	peers  []*Node
	ranges []podRange        // of --cluster-cidr, disjoint
	others byFamily[Lengths] // the lengths of pod subnets elsewhere; zero: none can be told
	never  takenIndex        // what no pod subnet may overlap, by the options and the standards
	taken  takenIndex        // what of this host none may overlap that is not in place
	nodes  []holder          // Nodes' InternalIPs that none of the above protects, sorted
	needs  []netip.Addr      // the default gateways and nameservers of this host
}

// A holder is a Node with one of its InternalIPs.
type holder struct {
	addr netip.Addr
	node *Node
}

func newJudge(opts Options, host Host, ranges *hostRanges, own *Node, peers []*Node, actual []Route) *judge {
	j := &judge{opts: opts, own: own, peers: peers}
	j.setLengths(ranges.cluster, actual)
	j.never, j.taken = newTakenIndex(bounds(opts)), newTakenIndex(ranges.taken)
	j.needs = slices.Clone(host.Nameservers)
	for _, r := range host.Routes {
		if r.Via.IsValid() && wide(r.Dst) {
			j.needs = append(j.needs, r.Via)
		}
	}
	return j
}

// protect keeps pod subnets off Nodes' InternalIPs, of each Node the one that
// speaks for it, whether it has a pod subnet or not. Most are inside a connected
// prefix, which is taken already. Where the operator says where pods live, an
// InternalIP in there is a lie, not a claim.
func (j *judge) protect(claims []claim) {
	if len(j.opts.ClusterCIDRs) > 0 {
		return
	}
	spoken := make(map[holderKey]bool, len(claims))
	for i := range claims {
		c := &claims[i]
		j.protectAddr(c.node, c.addr)
		spoken[holderKey{c.node, c.subnet.Addr().Is4()}] = true
	}
	for _, n := range j.peers {
		for _, is4 := range []bool{true, false} {
			if !spoken[holderKey{n, is4}] {
				j.protectAddr(n, n.firstAddr(is4))
			}
		}
	}
	slices.SortFunc(j.nodes, func(a, b holder) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.node.Name, b.node.Name))
	})
}

// A holderKey is a Node's part in one family.
type holderKey struct {
	node *Node
	is4  bool
}

func (j *judge) protectAddr(n *Node, addr netip.Addr) {
	if !addr.IsValid() || len(j.opts.NodeCIDRs) > 0 && !within(j.opts.NodeCIDRs, single(addr)) {
		return
	}
	_, service := j.never.overlap(single(addr))
	if _, known := j.taken.overlap(single(addr)); !known && !service {
		j.nodes = append(j.nodes, holder{addr, n})
	}
}

// refuse returns why a subnet can't be a pod subnet, by what the operator and the
// standards say, or "".
func (j *judge) refuse(p netip.Prefix) string {
	switch lengths, inside := j.lengths(p); {
	case !inside:
		return fmt.Sprintf("podCIDR %s is outside --cluster-cidr", p)
	case lengths == Lengths{}:
		return fmt.Sprintf("podCIDR %s is wider than a pod subnet is taken to be without --cluster-cidr", p)
	case !lengths.has(p.Bits()):
		return fmt.Sprintf("podCIDR %s is a /%d, pod subnets here are %s", p, p.Bits(), lengths)
	}
	return j.never.clash(p)
}

// hides returns the older Node whose InternalIP the claim would hide. A younger
// Node's does not count: a kubelet may write any address at any time, and could
// make us refuse another Node's subnet by it.
func (j *judge) hides(c *claim) *Node {
	i, _ := slices.BinarySearchFunc(j.nodes, c.subnet.Addr(), func(h holder, addr netip.Addr) int { return h.addr.Compare(addr) })
	for ; i < len(j.nodes) && c.subnet.Contains(j.nodes[i].addr); i++ {
		if n := j.nodes[i].node; n.older(c.node) {
			return n
		}
	}
	return nil
}
