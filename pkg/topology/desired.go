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
	b.formerSubnets()
	b.peerRoutes()
	b.sysctls()
	b.conflicts()
	b.nextHops()
	b.hostProblems()
	b.pluginProblems()
	b.cni()
	b.bridge()
	b.masquerade()
	slices.SortFunc(b.problems, problem.Problem.Compare)
	return b.desired, b.problems
}

// input is what a pass starts from.
type input struct {
	opts     Options
	host     Host
	actual   State
	own      *Node          // nil: unknown, or this host is not a Node
	ownAddrs []netip.Addr   // its InternalIPs
	ownCIDRs []netip.Prefix // its podCIDRs
	peers    []*Node
}

type builder struct {
	*input
	resolver  *resolver
	validator *validator

	stated   []netip.Prefix // our own valid podCIDRs
	subnets  []netip.Prefix // those of them that this host serves
	former   []netip.Prefix // former ones that pods still use
	uplinks  []Link         // the links with our InternalIPs
	renamed  string         // the bridge's name now, if it was renamed
	off6     bool           // IPv6 is disabled here, which is reported, so that peers' Problems with it are not
	claims   []claim        // accepted, reached or not; one a subnet
	hops     []netip.Addr   // the addresses by which they are reached, sorted, each once
	desired  State
	problems []problem.Problem
}

func newBuilder(opts Options, host Host, nodes []*Node, actual State) *builder {
	in := &input{opts: opts, host: host, actual: actual, peers: make([]*Node, 0, len(nodes))}
	for _, n := range nodes {
		if n.Name == opts.NodeName && !opts.Router {
			in.own, in.ownAddrs, in.ownCIDRs = n, n.Addrs, n.PodCIDRs
			continue
		}
		in.peers = append(in.peers, n)
	}
	b := &builder{input: in}
	subnets := slices.Clone(in.ownCIDRs)
	if actual.CNI != nil {
		subnets = append(subnets, actual.CNI.Subnets...)
	}
	if name := host.RenamedBridge(opts.Bridge, subnets, actual.mac); name != "" && !opts.Router {
		b.renamed, in.host = name, host.without(name)
	}
	b.resolver = newResolver(in)
	b.validator = newValidator(b.resolver)
	return b
}

func (b *builder) report(p problem.Problem) { b.problems = append(b.problems, p) }

// ownProblem reports a problem that keeps this node from being ready.
func (b *builder) ownProblem(reason problem.Reason, format string, args ...any) {
	p := problemOf(b.opts.NodeName, netip.Prefix{}, reason, format, args...)
	p.BlocksReady = true
	b.report(p)
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
		p.BlocksReady = p.Reason == problem.PodCIDRMalformed
		b.report(p)
	}
	var accepted []netip.Prefix
	for _, p := range b.own.PodCIDRs {
		why, clash := cmp.Or(b.validator.refuse(p), tooSmall(p)), clashOf(&b.validator.taken, p)
		if why == "" {
			b.stated = append(b.stated, p)
		}
		if route := routeTo(b.actual.Routes, p, MetricOwn); why == "" && (route == nil || route.Type != Unreachable) {
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
		if link, p := b.host.linkWith(addr); p.IsValid() && addr.Is4() == is4 {
			return link, true
		}
	}
	return Link{}, false
}

func (b *builder) findUplink(is4 bool) {
	link, ok := b.uplink(is4)
	off := b.switchedOff()
	switch {
	case ok:
		b.uplinks = append(b.uplinks, link)
	case !is4 && len(off) > 0:
		b.off6 = true
		b.ownProblem(problem.AddressMissing, "IPv6 is switched off on this host, so no link has the Node's IPv6 InternalIP (%s); set these to 0 and give the link its address back", strings.Join(off, ", "))
	case b.own.firstAddr(is4).IsValid():
		b.ownProblem(problem.AddressMissing, "no link of this host has the Node's %s InternalIP; peers route our pods' traffic to it", familyName(is4))
	default:
		b.ownProblem(problem.AddressMissing, "the Node has a pod subnet but no InternalIP of %s; give kubelet --node-ip", familyName(is4))
	}
}

// peerRoutes validates the peers' claims and adds a route to each accepted subnet that is reached.
func (b *builder) peerRoutes() {
	claims := b.collect()
	b.reachAll(claims)
	b.validator.protect(claims)
	b.settle(claims)
	b.desired.Routes = slices.Grow(b.desired.Routes, len(b.claims))
	for i := range b.claims {
		c := &b.claims[i]
		if c.why != nil && (c.ok() || !b.off6 || c.subnet.Addr().Is4()) {
			b.report(*c.why)
		}
		if c.ok() {
			b.desired.Routes = append(b.desired.Routes, b.route(c))
		}
	}
}

// route returns the route to a subnet that is reached. While our own Node is missing, its
// InternalIP is unknown, so the preferred source stays.
func (b *builder) route(c *claim) Route {
	if c.kept != nil {
		return *c.kept
	}
	r := Route{Dst: c.subnet, Via: c.addr, Dev: c.dev, Src: b.resolver.sources[outlet{c.dev, c.addr.Is4()}], Protocol: Protocol, Metric: MetricPeer}
	if b.own == nil && !b.opts.Router {
		if have := b.inPlace(c.subnet); have != nil && have.Via == r.Via && have.Dev == r.Dev {
			r.Src = have.Src
		}
	}
	return r
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
			claims = append(claims, c)
		}
	}
	if b.opts.Router && unserved > 0 { // a node reports its own
		b.report(problemOf("", netip.Prefix{}, problem.SettingMissing, "IPv6 is off in this host's kernel, so IPv6 pod subnets get no route here (%d of them)", unserved))
	}
	slices.SortFunc(claims, func(a, c claim) int { return ComparePrefix(a.subnet, c.subnet) })
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
	clash := clashOf(&b.validator.taken, p)
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
	g := claimTo(b.actual.granted, c.subnet)
	if g == nil || g.node.Name != c.node.Name || g.node.UID != c.node.UID {
		return nil
	}
	return g
}

// nextHops finds the addresses by which Nodes are reached, and reports Nodes with one InternalIP.
// Neither is refused: a Node can misdirect its own subnet only, and a refusal would let one kubelet
// disconnect others.
func (b *builder) nextHops() {
	hops := make([]netip.Addr, 0, len(b.claims))
	for i := range b.claims {
		if c := &b.claims[i]; c.ok() {
			hops = append(hops, c.addr)
		}
	}
	sortAddrs(hops)
	b.hops = slices.Compact(hops)
	shared := len(b.hops) < len(hops)
	if b.hops = slices.DeleteFunc(b.hops, b.isEssential); !shared {
		return
	}
	holder := make(map[netip.Addr]*Node, len(b.hops))
	for i := range b.claims {
		c := &b.claims[i]
		if first := holder[c.addr]; first != nil && first != c.node && c.ok() {
			b.report(problemOf(c.node.Name, netip.Prefix{}, problem.AddressShared, "InternalIP %s is also that of node %s; only one of them can have it", c.addr, first.Name))
		} else if c.ok() {
			holder[c.addr] = c.node
		}
	}
}
