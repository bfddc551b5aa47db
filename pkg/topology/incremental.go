package topology

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Incremental computes what Desired computes, for one input after another, at the cost of what has
// changed. What a peer contributes depends on this host and on related peers: those with an
// overlapping subnet, with an InternalIP inside a subnet of the other, or with the same InternalIP
// or MAC address of the tunnel. So Desired runs for the peers that changed and for their relatives,
// and the others keep their contributions. The zero Incremental is ready for use.
type Incremental struct {
	last     *computation // nil: none
	index    *peerIndex   // of the peers of last; nil: not built
	concerns concerns
}

// A computation is a result of Desired with the inputs that the peers' contributions depend on.
type computation struct {
	opts     Options
	host     Host
	nodes    []*Node
	basis    basis
	tallies  byFamily[tally]
	desired  State
	problems []problem.Problem
	// unsettled are prefixes of the peers that the next computation has to include, because the
	// kernel or the grants, both of which are inputs, did not agree with this result. If there are
	// too many, nothing is settled.
	unsettled []netip.Prefix
}

// A basis is what the peers' contributions depend on besides the inputs of a computation.
type basis struct {
	own                     *Node
	stated, subnets, former []netip.Prefix
	attached                []netip.Prefix
	renamed                 string
	off6                    bool
	tunnels                 byFamily[bool]
	noTunnel                byFamily[string]
	gatewayOfPod            bool
}

func (b *builder) basis() basis {
	t := b.resolver.tunnels
	return basis{b.own, b.stated, b.subnets, b.former, b.attached, b.renamed, b.off6, byFamily[bool]{t.v4 != nil, t.v6 != nil}, b.resolver.noTunnel, b.gatewayOfPod()}
}

// maxChanged is the number of peers above which a full computation is cheaper.
const maxChanged = 64

// Desired returns what the function Desired returns. A Node that changed is another element of
// nodes than before. Neither nodes nor the host's lists may be changed afterwards.
func (x *Incremental) Desired(opts Options, host Host, nodes []*Node, actual State) (State, []problem.Problem) {
	next, indexed := x.update(opts, host, nodes, actual)
	if next == nil {
		b := newBuilder(opts, host, nodes, actual)
		b.compute()
		next = &computation{basis: b.basis(), tallies: b.tallies, desired: b.desired, problems: b.problems}
		next.unsettled = append(differences(next.desired, actual), changedGrants(next.desired.granted, actual.granted)...)
		if !indexed {
			x.index = nil
		}
	}
	next.opts, next.host, next.nodes = opts, host, nodes
	x.last = next
	return next.desired, next.problems
}

// Ready prepares the next computation, and reports whether that can cost only what has changed. It
// can't while the kernel differs from the last result, as it did before the first one was applied.
func (x *Incremental) Ready() bool {
	if x.last == nil || len(x.last.unsettled) > maxChanged {
		return false
	}
	if x.index == nil {
		x.index = newPeerIndex(x.last.opts, x.last.nodes)
	}
	return true
}

// Concerns returns what the function Concerns returns.
func (x *Incremental) Concerns(opts Options, nodes []*Node) []netip.Prefix {
	return x.concerns.of(opts, nodes)
}

// update continues from the last computation. It returns nil if a full one is needed, or cheaper,
// and whether the index has the peers of nodes.
func (x *Incremental) update(opts Options, host Host, nodes []*Node, actual State) (next *computation, indexed bool) {
	if !x.continues(opts, host, actual) {
		return nil, false
	}
	removed, added := changedNodes(x.last.nodes, nodes)
	touched := differences(x.last.desired, actual)
	isOwn := func(n *Node) bool { return n.Name == opts.NodeName }
	if len(removed)+len(added)+len(touched) > maxChanged || slices.ContainsFunc(slices.Concat(removed, added), isOwn) {
		return nil, false
	}
	if x.index == nil {
		x.index = newPeerIndex(opts, x.last.nodes)
	}
	x.index.add(added...)
	related := x.index.related(slices.Concat(removed, added), slices.Concat(touched, x.last.unsettled))
	x.index.remove(removed...)
	if len(related) > maxChanged {
		return nil, true
	}
	changed := newFootprint(related)
	peers := slices.DeleteFunc(related, func(n *Node) bool { return slices.Contains(removed, n) })
	return x.merge(opts, host, actual, changed, peers, touched), true
}

// continues reports whether the peers' contributions depend on the same as in the last computation,
// as far as that is known before the next one.
func (x *Incremental) continues(opts Options, host Host, actual State) bool {
	return x.last != nil && len(actual.Elsewhere) == 0 && x.last.basis.own != nil && len(x.last.unsettled) <= maxChanged && sameGrants(x.last.desired.granted, actual.granted) &&
		reflect.DeepEqual(opts, x.last.opts) && host.samePaths(x.last.host)
}

// samePaths reports whether two Hosts reach all addresses in the same way.
func (h Host) samePaths(o Host) bool {
	return h.NoIPv6 == o.NoIPv6 && slices.Equal(h.Nameservers, o.Nameservers) && reflect.DeepEqual(h.Links, o.Links) && slices.Equal(h.Routes, o.Routes) &&
		reflect.DeepEqual(h.RouteTable, o.RouteTable)
}

func sameGrants(a, b []*claim) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// gatewayOfPod reports whether a gateway of this host is in a peer's subnet: then the peers behind
// the gateway depend on that subnet's Node.
func (b *builder) gatewayOfPod() bool {
	return b.opts.OffLink == OffLinkGateway && slices.ContainsFunc(b.host.Underlay(), func(r Route) bool {
		return r.Via.IsValid() && claimAround(b.claims, r.Via) != nil
	})
}

// merge computes the State of this host with some peers, and adds the contributions of the others.
// It returns nil if these are no longer true.
func (x *Incremental) merge(opts Options, host Host, actual State, changed footprint, peers []*Node, touched []netip.Prefix) *computation {
	last := x.last
	b := newBuilder(opts, host, append(slices.Clone(peers), last.basis.own), actual)
	gone := changed.keys()
	b.tallies = last.tallies
	b.add(-1, tallied(elements(last.desired.granted, gone.granted, compareClaims), elements(last.desired.Routes, gone.Routes, CompareRoutes)))
	b.compute()
	next := &computation{basis: b.basis(), tallies: b.tallies}
	if len(b.subnets) == 0 || b.needsAll || next.basis.gatewayOfPod || !reflect.DeepEqual(next.basis, last.basis) || b.validator.guesses(changed.subnets) {
		return nil
	}
	desired, ok := changed.replaced(last.desired, b.desired, slices.Concat(b.subnets, b.former))
	if !ok {
		return nil
	}
	next.desired = desired
	next.problems = slices.DeleteFunc(slices.Clone(last.problems), func(p problem.Problem) bool {
		return p.Node == "" || p.Node == opts.NodeName || slices.Contains(changed.names, p.Node)
	})
	next.problems = append(next.problems, b.problems...)
	slices.SortFunc(next.problems, problem.Problem.Compare)
	next.unsettled = slices.Concat(touched, changed.unsettled(desired, actual))
	return next
}
