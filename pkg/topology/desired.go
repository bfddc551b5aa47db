package topology

import (
	"fmt"
	"net/netip"
	"slices"
)

// Desired computes what this host should be like so that its pods and those of
// all other Nodes reach each other. The actual State decides disputes, for the
// incumbent keeps what it holds, and stands in for what is not known yet: as
// long as our own pod subnets are unknown, what they gave rise to stays.
//
// Routes come sorted, Problems too. The cost is O(n log n) in the Nodes.
func Desired(opts Options, host Host, nodes []*Node, actual State) (State, []Problem) {
	b := newBuilder(opts, host, nodes, actual)
	b.ownSubnets()
	b.formerSubnets()
	b.peerRoutes()
	b.sysctls()
	b.conflicts()
	b.tableUnread()
	b.cni()
	b.rivalConfigs()
	b.unseen()
	b.addresses()
	b.masquerade()
	slices.SortFunc(b.problems, Problem.Compare)
	return b.desired, b.problems
}

// A builder holds what the steps of Desired share.
type builder struct {
	opts     Options
	host     Host
	actual   State
	own      *Node
	peers    []*Node
	resolver *resolver
	judge    *judge

	subnets  []netip.Prefix // our own pod subnets
	former   []netip.Prefix // those that pods of ours still live on
	uplinks  []Link         // the links that bear our InternalIPs
	claims   []claim        // accepted, with or without a way to them; one a subnet
	hops     []netip.Addr   // of all claims that have one, sorted, each once
	desired  State
	problems []Problem
}

func newBuilder(opts Options, host Host, nodes []*Node, actual State) *builder {
	b := &builder{opts: opts, host: host, actual: actual, peers: make([]*Node, 0, len(nodes))}
	for _, n := range nodes {
		if n.Name == opts.NodeName && !opts.Router {
			b.own = n
			continue
		}
		b.peers = append(b.peers, n)
	}
	var addrs []netip.Addr
	if b.own != nil {
		addrs = b.own.Addrs
	}
	b.resolver = newResolver(opts, host, addrs)
	b.judge = newJudge(opts, host, b.own, b.peers, actual.Routes)
	return b
}

func (b *builder) report(p Problem) { b.problems = append(b.problems, p) }

// ownProblem reports what keeps this node from being ready.
func (b *builder) ownProblem(reason Reason, format string, args ...any) {
	b.report(Problem{Node: b.opts.NodeName, Reason: reason, Detail: fmt.Sprintf(format, args...), Own: true})
}

// ownReady tells whether nothing is wrong with this node itself, but for pods of a
// former subnet, whose config is to stay.
func (b *builder) ownReady() bool {
	return !slices.ContainsFunc(b.problems, func(p Problem) bool { return p.Own && p.Reason != SubnetChanged })
}

// ownSubnets finds our own pod subnets, makes the kernel refuse packets to pods
// that don't exist, and finds the links by which peers know us.
func (b *builder) ownSubnets() {
	switch {
	case b.opts.Router:
		return
	case b.own == nil:
		b.ownProblem(NodeMissing, "the API server has no Node of this name; waiting for kubelet to register it (is --node-name right?)")
	case b.own.lacksPodCIDR():
		b.ownProblem(PodCIDRMissing, "the Node has no podCIDR yet; kube-controller-manager gives it one when run with --allocate-node-cidrs and --cluster-cidr")
	default:
		b.acceptOwn()
	}
	if len(b.subnets) == 0 {
		b.holdOwn()
		return
	}
	for _, p := range b.subnets {
		b.desired.Routes = append(b.desired.Routes, Route{Type: Unreachable, Dst: p, Protocol: Protocol, Metric: MetricOwn})
		b.findUplink(p.Addr().Is4())
	}
}

func (b *builder) acceptOwn() {
	for _, f := range b.own.Faults {
		b.report(Problem{Node: b.own.Name, Reason: f.Reason, Detail: f.Detail, Own: f.Reason == PodCIDRMalformed})
	}
	for _, p := range b.own.PodCIDRs {
		if why := b.judge.refuse(p); why != "" {
			b.ownProblem(PodCIDRRefused, "%s", why)
			continue
		}
		b.subnets = append(b.subnets, p)
	}
}

// holdOwn keeps our unreachable routes while our subnets are unknown.
func (b *builder) holdOwn() {
	for _, r := range b.actual.Routes {
		if r.Type == Unreachable && r.Metric == MetricOwn {
			b.desired.Routes = append(b.desired.Routes, r)
		}
	}
}

func (b *builder) findUplink(is4 bool) {
	family := map[bool]string{true: "IPv4", false: "IPv6"}[is4]
	given := false
	for _, addr := range b.own.Addrs {
		if addr.Is4() != is4 {
			continue
		}
		given = true
		if link, ok := b.host.linkWith(addr); ok {
			b.uplinks = append(b.uplinks, link)
			return
		}
	}
	if given {
		b.ownProblem(AddressMissing, "no link of this host bears the Node's %s InternalIP; peers route our pods' traffic to it", family)
		return
	}
	b.ownProblem(AddressMissing, "the Node has a pod subnet but no InternalIP of %s; give kubelet --node-ip", family)
}

// peerRoutes judges what the peers claim and makes a route for each subnet.
func (b *builder) peerRoutes() {
	claims := b.collect()
	b.judge.protect(claims)
	b.settle(claims)
	b.desired.Routes = slices.Grow(b.desired.Routes, len(b.claims))
	for i := range b.claims {
		c := &b.claims[i]
		if c.dev == "" {
			b.report(*c.why)
			continue
		}
		b.desired.Routes = append(b.desired.Routes, Route{
			Dst: c.subnet, Via: c.addr, Dev: c.dev, Src: b.resolver.source(c.addr, c.dev),
			Protocol: Protocol, Metric: MetricPeer,
		})
	}
}

// collect gathers the claims that stand up on their own, sorted by subnet.
func (b *builder) collect() []claim {
	claims := make([]claim, 0, len(b.peers))
	for _, n := range b.peers {
		for _, f := range n.Faults {
			b.report(Problem{Node: n.Name, Reason: f.Reason, Detail: f.Detail})
		}
		if n.lacksPodCIDR() {
			b.report(Problem{Node: n.Name, Reason: PodCIDRMissing, Detail: "the Node has no podCIDR yet"})
		}
		for _, p := range n.PodCIDRs {
			if reason, why := b.refuse(p); why != "" {
				b.report(Problem{Node: n.Name, Subnet: p, Reason: reason, Detail: why})
				continue
			}
			addr, dev, why := b.resolver.hop(n, p)
			claims = append(claims, claim{p, n, addr, dev, why})
		}
	}
	slices.SortFunc(claims, func(a, c claim) int { return ComparePrefix(a.subnet, c.subnet) })
	return claims
}

// refuse is the judge's word on a peer's subnet, which must not be ours either:
// at this point the desired routes are those of our own subnets, also of former
// ones that are held because none is known. All Nodes should say the same of it,
// so what only we have against it comes last.
func (b *builder) refuse(p netip.Prefix) (Reason, string) {
	if why := b.judge.refuse(p); why != "" {
		return PodCIDRRefused, why
	}
	if slices.Contains(b.subnets, p) {
		return PodCIDRDisputed, belongs(p, b.opts.NodeName)
	}
	for _, own := range b.desired.Routes {
		if own.Dst.Overlaps(p) {
			return PodCIDRRefused, fmt.Sprintf("podCIDR %s overlaps %s, which is this node's own", p, own.Dst)
		}
	}
	return "", ""
}

// belongs is said of a subnet that another Node has.
func belongs(p netip.Prefix, node string) string {
	return fmt.Sprintf("podCIDR %s belongs to node %s", p, node)
}

// settle gives each subnet to one Node. All subnets of a family have one length,
// so those that overlap are equal, and stand together once sorted.
func (b *builder) settle(claims []claim) {
	b.claims = claims[:0]
	for len(claims) > 0 {
		n := 1
		for n < len(claims) && claims[n].subnet == claims[0].subnet {
			n++
		}
		b.grant(b.dispute(claims[:n]))
		claims = claims[n:]
	}
	b.desired.granted = b.claims
	b.shared()
}

// dispute returns the best of the claims to one subnet, and reports the others.
func (b *builder) dispute(claims []claim) *claim {
	winner := &claims[0]
	for i := range claims[1:] {
		if c := &claims[1+i]; b.better(c, winner) {
			winner = c
		}
	}
	for i := range claims {
		if c := &claims[i]; c != winner {
			b.report(Problem{
				Node: c.node.Name, Subnet: c.subnet, Reason: PodCIDRDisputed,
				Detail: belongs(c.subnet, winner.node.Name),
			})
		}
	}
	return winner
}

func (b *builder) grant(c *claim) {
	if older := b.judge.hides(c); older != nil && !b.granted(c) && !b.incumbent(c) {
		b.report(Problem{
			Node: c.node.Name, Subnet: c.subnet, Reason: PodCIDRRefused,
			Detail: fmt.Sprintf("podCIDR %s overlaps an InternalIP of node %s", c.subnet, older.Name),
		})
		return
	}
	b.claims = append(b.claims, *c)
}

func (b *builder) better(c, than *claim) bool {
	if granted := b.granted(c); granted != b.granted(than) {
		return granted
	}
	if inc := b.incumbent(c); inc != b.incumbent(than) {
		return inc
	}
	if held := b.held(c); held != b.held(than) {
		return held
	}
	return c.node.older(than.node)
}

// granted tells whether this very Node had the subnet before, whatever became of
// its address since.
func (b *builder) granted(c *claim) bool {
	i, ok := slices.BinarySearchFunc(b.actual.granted, c.subnet, func(g claim, p netip.Prefix) int { return ComparePrefix(g.subnet, p) })
	return ok && b.actual.granted[i].node.Name == c.node.Name && b.actual.granted[i].node.UID == c.node.UID
}

// held tells whether our table sends the subnet to an InternalIP of this Node,
// were it not its next hop any more, for a Node may get a better one.
func (b *builder) held(c *claim) bool {
	i, ok := slices.BinarySearchFunc(b.actual.Routes, Route{Dst: c.subnet, Metric: MetricPeer}, Route.Compare)
	return ok && slices.Contains(c.node.Addrs, b.actual.Routes[i].Via)
}

// incumbent tells whether our table sends the subnet to this Node already.
func (b *builder) incumbent(c *claim) bool {
	i, ok := slices.BinarySearchFunc(b.actual.Routes, Route{Dst: c.subnet, Metric: MetricPeer}, Route.Compare)
	return ok && c.dev != "" && b.actual.Routes[i].Via == c.addr
}

// shared reports Nodes with one InternalIP. Neither is refused: a Node can only
// misdirect its own subnet, and refusing would let one kubelet cut off others.
func (b *builder) shared() {
	if b.hops = b.nextHops(); len(b.hops) == b.reachable() {
		return
	}
	holder := make(map[netip.Addr]*Node, len(b.claims))
	for i := range b.claims {
		c := &b.claims[i]
		if c.dev == "" {
			continue
		}
		first, ok := holder[c.addr]
		switch {
		case !ok:
			holder[c.addr] = c.node
		case first != c.node:
			b.report(Problem{
				Node: c.node.Name, Reason: AddressShared,
				Detail: fmt.Sprintf("InternalIP %s is also that of node %s; only one of them can have it", c.addr, first.Name),
			})
		}
	}
}

// masquerade describes our nftables table. Nodes without a route stay out of its
// sets: who claims a foreign address must not change how pods reach it.
//
// A table that can't be read stays what it was: it would else be written over and
// over, and what it holds can't be compared with anything.
func (b *builder) masquerade() {
	if b.host.TableUnread != "" {
		b.desired.Masquerade = b.actual.Masquerade
		return
	}
	sources := slices.Concat(b.subnets, b.former)
	if len(sources) == 0 {
		if b.actual.Masquerade == nil {
			return
		}
		sources = b.actual.Masquerade.Sources
	}
	m := &Masquerade{Bridge: b.opts.Bridge}
	if b.opts.Masquerade && len(sources) > 0 {
		m.Sources, m.Cluster, m.Nodes = sources, b.clusterRanges(sources), b.hops
	}
	b.desired.Masquerade = m
}

func (b *builder) clusterRanges(sources []netip.Prefix) []netip.Prefix {
	ranges := slices.Concat(sources, b.opts.NonMasqueradeCIDRs, b.opts.ClusterCIDRs)
	if len(b.opts.ClusterCIDRs) == 0 {
		ranges = slices.Grow(ranges, len(b.claims))
		for i := range b.claims {
			ranges = append(ranges, b.claims[i].subnet)
		}
	}
	return Outermost(ranges)
}

// reachable counts the claims that have a next hop.
func (b *builder) reachable() int {
	n := 0
	for i := range b.claims {
		if b.claims[i].dev != "" {
			n++
		}
	}
	return n
}

// nextHops are the Nodes that see a pod's own address. A gateway or nameserver of
// this host is none of them: it may not know the way back, and then a kubelet that
// claims its address could cut off what all pods need.
func (b *builder) nextHops() []netip.Addr {
	hops := make([]netip.Addr, 0, len(b.claims))
	for i := range b.claims {
		if c := &b.claims[i]; c.dev != "" && !slices.Contains(b.judge.needs, c.addr) {
			hops = append(hops, c.addr)
		}
	}
	sortAddrs(hops)
	return slices.Compact(hops)
}
