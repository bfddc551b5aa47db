package topology

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Desired computes the State in which this host's pods and those of all other Nodes reach each
// other. The actual State decides disputes, because the incumbent keeps its subnet, and replaces
// what is unknown: while our own pod subnets are unknown, the objects that depend on them stay.
//
// Routes and Problems are sorted. The cost is O(n log n) in the Nodes.
func Desired(opts Options, host Host, nodes []*Node, actual State) (State, []problem.Problem) {
	b := newBuilder(opts, host, nodes, actual)
	b.compute()
	return b.desired, b.problems
}

func (b *builder) compute() {
	b.desired.RouteTable = b.opts.RouteTable
	b.ownSubnets()
	b.formerSubnets()
	b.findTunnels()
	b.peerRoutes()
	b.conflicts()
	b.add(1, tallied(b.claims, b.desired.Routes))
	b.sysctls()
	b.nextHops()
	b.tunnelPeers()
	b.hostProblems()
	b.checkRouteTable()
	b.pluginProblems()
	b.cni()
	b.bridge()
	b.bridgeRoutes()
	b.elsewhere()
	b.tunnelAddresses()
	b.masquerade()
	slices.SortFunc(b.problems, problem.Problem.Compare)
}

// input is what a pass starts from.
type input struct {
	opts     Options
	host     Host
	actual   State
	own      *Node          // nil: unknown, or this host is not a Node
	ownAddrs []netip.Addr   // its InternalIPs
	ownCIDRs []netip.Prefix // its podCIDRs
	attached []netip.Prefix // those of the CNI config in place, of which pods have addresses
	peers    []*Node
}

type builder struct {
	*input
	resolver  *resolver
	validator *validator

	stated   []netip.Prefix  // our own valid podCIDRs
	subnets  []netip.Prefix  // those of them that this host serves
	former   []netip.Prefix  // former ones that pods still use
	uplinks  map[bool]Link   // the links with our InternalIPs, of IPv4 (true) and IPv6
	renamed  string          // the bridge's name now, if it was renamed
	off6     bool            // IPv6 is disabled here, which is reported, so that peers' Problems with it are not
	claims   []*claim        // accepted, reached or not; one a subnet
	hops     []netip.Addr    // the addresses by which they are reached, sorted, each once
	needsAll bool            // the result depends on the InternalIPs of all peers
	tallies  byFamily[tally] // of all peers, also of those that this computation leaves out
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
	b := &builder{input: in, uplinks: map[bool]Link{}}
	if actual.CNI != nil {
		in.attached = actual.CNI.Subnets
	}
	if name := host.RenamedBridge(opts.Bridge, slices.Concat(in.ownCIDRs, in.attached), actual.mac); name != "" && !opts.Router {
		b.renamed, in.host = name, host.without(name)
	}
	b.resolver = newResolver(in)
	b.validator = newValidator(b.resolver)
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

// peerRoutes validates the peers' claims and adds a route to each accepted subnet that is reached.
func (b *builder) peerRoutes() {
	claims := b.collect()
	b.reachAll(claims)
	b.validator.protect(claims)
	b.settle(claims)
	b.avoidPods()
	b.separateMACs()
	b.desired.Routes = slices.Grow(b.desired.Routes, len(b.claims))
	for _, c := range b.claims {
		if c.why != nil && (c.ok() || !b.off6 || c.subnet.Addr().Is4()) {
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
