package topology

import (
	"fmt"
	"net/netip"
	"slices"
)

// A claim is a pod subnet that a Node says is its own.
type claim struct {
	subnet netip.Prefix
	node   *Node
	hop    hop        // zero: off link, or no address at all
	addr   netip.Addr // the InternalIP that speaks for the Node
	why    *Problem   // why there is no hop
}

// A judge decides which claims are accepted.
type judge struct {
	opts  Options
	sizes byFamily[int] // the length that a pod subnet has
	taken takenIndex    // what no pod subnet may overlap
	nodes takenIndex    // Nodes' InternalIPs that none of the above protects
	owner map[netip.Addr]*Node
}

func newJudge(opts Options, host Host, own *Node, peers []*Node) *judge {
	j := &judge{opts: opts, owner: map[netip.Addr]*Node{}}
	j.sizes = byFamily[int]{opts.subnetBits(own, peers, true), opts.subnetBits(own, peers, false)}
	j.taken = newTakenIndex(takenByHost(opts, host))
	return j
}

// subnetBits returns the length that pod subnets of a family have: the
// operator's, else our own subnet's, else what most Nodes have.
func (o Options) subnetBits(own *Node, peers []*Node, is4 bool) int {
	if bits := o.maskSize(is4); bits != 0 {
		return bits
	}
	if own != nil && own.podCIDR(is4).IsValid() {
		return own.podCIDR(is4).Bits()
	}
	var count [129]int
	most := 0
	for _, n := range peers {
		if p := n.podCIDR(is4); p.IsValid() {
			if count[p.Bits()]++; count[p.Bits()] > count[most] {
				most = p.Bits()
			}
		}
	}
	return most
}

// takenByHost lists what a pod subnet would hide from this host.
func takenByHost(opts Options, host Host) []taken {
	var ranges []taken
	for _, link := range host.Links {
		if link.Name == opts.Bridge {
			continue
		}
		for _, p := range link.Addrs {
			ranges = append(ranges, taken{p.Masked(), fmt.Sprintf("%s on %s of this host", p, link.Name)})
		}
	}
	for _, r := range host.Routes {
		if r.Via.IsValid() {
			ranges = append(ranges, taken{single(r.Via), "gateway " + r.Via.String()})
		}
	}
	for _, addr := range host.Nameservers {
		ranges = append(ranges, taken{single(addr), "nameserver " + addr.String()})
	}
	for _, addr := range opts.APIServers {
		ranges = append(ranges, taken{single(addr), "API server " + addr.String()})
	}
	for _, p := range opts.ServiceCIDRs {
		ranges = append(ranges, taken{p.Masked(), "service range " + p.String()})
	}
	for _, p := range special {
		ranges = append(ranges, taken{p, "special range " + p.String()})
	}
	return slices.DeleteFunc(ranges, func(t taken) bool { return !overlapsCluster(opts, t.Prefix) })
}

// overlapsCluster tells whether a range can matter to any claim at all.
func overlapsCluster(opts Options, p netip.Prefix) bool {
	return len(opts.ClusterCIDRs) == 0 || slices.ContainsFunc(opts.ClusterCIDRs, p.Overlaps)
}

// protect keeps pod subnets off InternalIPs that are no neighbours of ours: an
// address on link is inside a connected prefix, which is taken already. Where the
// operator says where pods live, an InternalIP in there is a lie, not a claim.
func (j *judge) protect(claims []claim) {
	if len(j.opts.ClusterCIDRs) > 0 {
		return
	}
	var ranges []taken
	for i := range claims {
		addr := claims[i].addr
		if !addr.IsValid() || claims[i].hop.dev != "" {
			continue
		}
		if held := j.owner[addr]; held == nil || claims[i].node.older(held) {
			j.owner[addr] = claims[i].node
		}
		ranges = append(ranges, taken{single(addr), "InternalIP " + addr.String()})
	}
	j.nodes = newTakenIndex(ranges)
}

// refuse returns why a subnet can't be a pod subnet, or "".
func (j *judge) refuse(p netip.Prefix) string {
	if len(j.opts.ClusterCIDRs) > 0 && !within(j.opts.ClusterCIDRs, p) {
		return fmt.Sprintf("podCIDR %s is outside --cluster-cidr", p)
	}
	if want := *j.sizes.of(p.Addr().Is4()); p.Bits() != want {
		return fmt.Sprintf("podCIDR %s is a /%d, pod subnets here are /%d", p, p.Bits(), want)
	}
	if t, ok := j.taken.overlap(p); ok {
		return fmt.Sprintf("podCIDR %s overlaps %s", p, t.what)
	}
	return ""
}

// hides returns the older Node whose InternalIP the claim would hide. A younger
// Node's does not count: a kubelet may write any address at any time, and could
// make us refuse another Node's subnet by it.
func (j *judge) hides(c *claim) *Node {
	t, ok := j.nodes.overlap(c.subnet)
	if !ok {
		return nil
	}
	if owner := j.owner[t.Addr()]; owner != c.node && owner.older(c.node) {
		return owner
	}
	return nil
}
