package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Desired computes the State in which this host's pods and those of all other Nodes reach each
// other. The actual State decides disputes, because the incumbent keeps its subnet, and replaces
// what is unknown: while our own pod subnets are unknown, the objects that depend on them stay.
//
// Routes and Problems are sorted. The cost is O(n log n) in the Nodes.
func Desired(opts Options, host Host, nodes []*Node, actual State) (State, []problem.Problem) {
	b := newBuilder(opts, host, nodes, actual)
	b.ownSubnets()
	b.overlaps()
	b.formerSubnets()
	b.fullSubnets()
	b.peerRoutes()
	b.sysctls()
	b.conflicts()
	b.bridgeName()
	b.hostProblems()
	b.unfitPlugins()
	b.cni()
	b.otherConfigs()
	b.bridge()
	b.masquerade()
	slices.SortFunc(b.problems, problem.Problem.Compare)
	return b.desired, b.problems
}

type builder struct {
	opts      Options
	host      Host
	actual    State
	own       *Node
	peers     []*Node
	resolver  *resolver
	ranges    *hostRanges
	validator *validator

	stated   []netip.Prefix // our own valid podCIDRs
	subnets  []netip.Prefix // those of them that this host serves
	former   []netip.Prefix // former ones that pods still use
	uplinks  []Link         // the links with our InternalIPs
	renamed  string         // the bridge's name now, if it was renamed
	off6     bool           // IPv6 is disabled here, which is reported, so that peers' Problems with it are not
	claims   []claim        // accepted, with or without a link; one a subnet
	hops     []netip.Addr   // the next hops of claims, sorted, each once
	desired  State
	problems []problem.Problem
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
	if b.renamed = b.findRenamed(); b.renamed != "" {
		host = host.without(b.renamed)
		b.host = host
	}
	b.resolver = newResolver(opts, host, addrs)
	b.ranges = rangesOf(opts, host, b.own, b.resolver)
	b.validator = newValidator(opts, host, b.ranges, b.own, b.peers, actual.Routes)
	return b
}

func (b *builder) report(p problem.Problem) { b.problems = append(b.problems, p) }

// ownProblem reports a problem that keeps this node from being ready.
func (b *builder) ownProblem(reason problem.Reason, format string, args ...any) {
	b.report(problemOf(b.opts.NodeName, netip.Prefix{}, reason, format, args...).Blocking(true))
}

// warn reports a problem of this node that leaves it ready.
func (b *builder) warn(reason problem.Reason, format string, args ...any) {
	b.report(problemOf(b.opts.NodeName, netip.Prefix{}, reason, format, args...))
}

func problemOf(node string, subnet netip.Prefix, reason problem.Reason, format string, args ...any) problem.Problem {
	return problem.Problem{Subject: problem.Subject{Node: node, Subnet: subnet}, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// ownSubnets finds our own pod subnets, adds their unreachable routes, because of which the kernel
// refuses packets to missing pods, and finds the uplinks.
func (b *builder) ownSubnets() {
	switch {
	case b.opts.Router:
		return
	case b.own == nil:
		b.ownProblem(problem.NodeMissing, "the API server has no Node of this name; waiting for kubelet to register it (is --node-name right?)")
	case b.own.lacksPodCIDR():
		b.ownProblem(problem.PodCIDRMissing, "the Node has no podCIDR yet; kube-controller-manager gives it one when run with --allocate-node-cidrs and --cluster-cidr")
	default:
		b.acceptOwn()
	}
	for _, r := range b.actual.Routes {
		if len(b.subnets) == 0 && r.Type == Unreachable && r.Metric == MetricOwn { // stays until a subnet of ours is known
			b.desired.Routes = append(b.desired.Routes, r)
		}
	}
	for _, p := range b.subnets {
		b.desired.Routes = append(b.desired.Routes, Route{Type: Unreachable, Dst: p, Protocol: Protocol, Metric: MetricOwn})
		b.findUplink(p.Addr().Is4())
	}
}

func (b *builder) acceptOwn() {
	for _, p := range b.own.Problems {
		b.report(p.Blocking(p.Reason == problem.PodCIDRMalformed))
	}
	var accepted []netip.Prefix
	for _, p := range b.own.PodCIDRs {
		why, clash := cmp.Or(b.validator.refuse(p), tooSmall(p)), b.validator.taken.clash(p)
		if why == "" {
			b.stated = append(b.stated, p)
		}
		if why == "" && !b.inPlaceOwn(p) {
			why = clash
		}
		if why != "" {
			b.ownProblem(problem.PodCIDRRefused, "%s", why)
			continue
		}
		if clash != "" {
			b.warn(problem.RangeOverlap, "%s; it is in use and stays, but that and a pod can't both have one address", clash)
		}
		accepted = append(accepted, p)
	}
	b.serveFamilies(accepted)
	b.unroutable()
}

// uplink returns the link with our Node's InternalIP of a family.
func (b *builder) uplink(is4 bool) (Link, bool) {
	for _, addr := range b.own.Addrs {
		if link, ok := b.host.linkWith(addr); ok && addr.Is4() == is4 {
			return link, true
		}
	}
	return Link{}, false
}

func (b *builder) findUplink(is4 bool) {
	if link, ok := b.uplink(is4); ok {
		b.uplinks = append(b.uplinks, link)
		return
	}
	if paths := b.switchedOff(); !is4 && len(paths) > 0 {
		b.off6 = true
		b.ownProblem(problem.AddressMissing, "IPv6 is switched off on this host, so no link has the Node's IPv6 InternalIP (%s); set these to 0 and give the link its address back", strings.Join(paths, ", "))
		return
	}
	family := familyName(is4)
	if b.own.firstAddr(is4).IsValid() {
		b.ownProblem(problem.AddressMissing, "no link of this host has the Node's %s InternalIP; peers route our pods' traffic to it", family)
		return
	}
	b.ownProblem(problem.AddressMissing, "the Node has a pod subnet but no InternalIP of %s; give kubelet --node-ip", family)
}

// peerRoutes validates the peers' claims and adds a route to each accepted subnet.
func (b *builder) peerRoutes() {
	claims := b.collect()
	b.validator.protect(claims)
	b.settle(claims)
	b.desired.Routes = slices.Grow(b.desired.Routes, len(b.claims))
	for i := range b.claims {
		c := &b.claims[i]
		if c.why != nil && (c.dev != "" || !b.off6 || c.subnet.Addr().Is4()) {
			b.report(*c.why)
		}
		if c.dev != "" {
			b.desired.Routes = append(b.desired.Routes, b.route(c))
		}
	}
}

// collect returns the claims that are valid by themselves, sorted by subnet.
func (b *builder) collect() []claim {
	claims := make([]claim, 0, len(b.peers))
	unserved := 0
	for _, n := range b.peers {
		b.problems = append(b.problems, n.Problems...)
		if n.lacksPodCIDR() {
			b.report(problem.Problem{Subject: problem.Node(n.Name), Reason: problem.PodCIDRMissing, Message: "the Node has no podCIDR yet"})
		}
		for _, p := range n.PodCIDRs {
			if b.lacksFamily(p.Addr().Is4()) {
				unserved++
				continue
			}
			c := claim{subnet: p, node: n}
			if reason, why := b.refuse(&c); why != "" {
				b.report(c.problem(reason, "%s", why))
				continue
			}
			c.addr, c.dev, c.why = b.resolver.nextHop(n, p)
			claims = append(claims, c)
		}
	}
	if b.opts.Router && unserved > 0 { // a node reports its own
		b.report(problemOf("", netip.Prefix{}, problem.SettingMissing, "IPv6 is off in this host's kernel, so IPv6 pod subnets get no route here (%d of them)", unserved))
	}
	slices.SortFunc(claims, func(a, c claim) int { return ComparePrefix(a.subnet, c.subnet) })
	b.keepAll(claims)
	return claims
}

// refuse returns why a peer's subnet is refused. It must not be ours either: at this point the
// desired routes are those to our own subnets, including held ones. Reasons that all Nodes share
// come first. A reason of this host alone does not remove an existing route.
func (b *builder) refuse(c *claim) (problem.Reason, string) {
	p := c.subnet
	if why := b.validator.refuse(p); why != "" {
		return problem.PodCIDRRefused, why
	}
	if i := slices.IndexFunc(b.stated, p.Overlaps); i >= 0 {
		return problem.PodCIDRDisputed, belongs(p, b.stated[i], b.opts.NodeName)
	}
	for _, own := range b.desired.Routes {
		if own.Dst.Overlaps(p) {
			return problem.PodCIDRRefused, fmt.Sprintf("podCIDR %s overlaps %s, which is this node's own", p, own.Dst)
		}
	}
	clash := b.validator.taken.clash(p)
	if clash != "" && b.precedence(c) == 0 {
		return problem.PodCIDRRefused, clash
	}
	if clash != "" {
		b.report(c.problem(problem.RangeOverlap, "%s; the Node had it before and keeps it", clash))
	}
	return "", ""
}

// grantOf returns the claim as the pass before granted it, or nil.
func (b *builder) grantOf(c *claim) *claim {
	i, ok := slices.BinarySearchFunc(b.actual.granted, c.subnet, func(g claim, p netip.Prefix) int { return ComparePrefix(g.subnet, p) })
	if !ok || b.actual.granted[i].node.Name != c.node.Name || b.actual.granted[i].node.UID != c.node.UID {
		return nil
	}
	return &b.actual.granted[i]
}

// shared reports Nodes with one InternalIP. Neither is refused: a Node can misdirect its own subnet
// only, and a refusal would let one kubelet disconnect others.
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
			b.report(problemOf(c.node.Name, netip.Prefix{}, problem.AddressShared, "InternalIP %s is also that of node %s; only one of them can have it", c.addr, first.Name))
		}
	}
}

func (b *builder) reachable() int {
	n := 0
	for i := range b.claims {
		if b.claims[i].dev != "" {
			n++
		}
	}
	return n
}
