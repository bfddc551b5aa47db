package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Path is how packets get to a peer's subnet.
type Path string

// The Paths. The empty one leads nowhere.
const (
	PathDirect   Path = "direct"   // our route leads to the InternalIP, which is on a link of ours
	PathGateway  Path = "gateway"  // our route leads to the gateway behind which the InternalIP is
	PathTunnel   Path = "tunnel"   // our route leads into a tunnel to the InternalIP
	PathUnderlay Path = "underlay" // this host's own routes lead to the subnet
)

// A reach is the decision how packets get to a peer's subnet. It is made here, from this host's
// routes; our routes, tunnels, settings and nftables sets follow from it.
type reach struct {
	path Path
	addr netip.Addr // the InternalIP that counts
	via  netip.Addr // the next hop of our route
	dev  string     // the link of our route; empty: there is no route of ours
	by   *Route     // the foreign route to the InternalIP; nil: unknown
	// before is why an InternalIP before that one in the Node does not count; empty: there is none.
	before string
	kept   *Route           // our existing route that stays, although this host's routes to the next hop changed
	why    *problem.Problem // why the subnet is not reached, or why the route is kept
}

func (r *reach) ok() bool { return r.path != "" }

// Reach is how packets get to a peer's subnet. The zero Reach: they don't.
type Reach struct {
	Node       string
	Path       Path
	InternalIP netip.Addr
	// By is the route of this host to the InternalIP, because of which the Path is that one; nil:
	// our route was there before, and stays. Peers share it.
	By *Route
	// Before is why an InternalIP before that one in the Node does not count; empty: there is none.
	Before string
}

// Reach returns how packets get to a subnet of the State that Desired has returned.
func (s State) Reach(subnet netip.Prefix) Reach {
	c := claimTo(s.granted, subnet)
	if c == nil || !c.ok() {
		return Reach{}
	}
	return Reach{Node: c.node.Name, Path: c.path, InternalIP: c.addr, By: c.by, Before: c.before}
}

// Endpoint returns the InternalIP to which a route of ours leads. It is the zero Addr if the kernel
// does not show it, because the route leads to a gateway.
func (s *State) Endpoint(r *Route) netip.Addr {
	switch pathOf(r) {
	case PathTunnel:
		key := FDBEntry{Dev: r.Dev, MAC: TunnelMAC(r.Dst)}
		if i, ok := slices.BinarySearchFunc(s.FDB, key, FDBEntry.Compare); ok {
			return s.FDB[i].Dst
		}
	case PathDirect:
		return r.Via
	}
	return netip.Addr{}
}

// mayLeadTo reports whether a route of ours leads to an InternalIP of a Node, or to a gateway, which
// does not show the Node.
func (b *builder) mayLeadTo(r *Route, n *Node) bool {
	return pathOf(r) == PathGateway || slices.Contains(n.Addrs, b.actual.Endpoint(r))
}

// pathOf returns the Path of a route of ours. No InternalIP is a link-local address.
func pathOf(r *Route) Path {
	switch {
	case isTunnel(r.Dev):
		return PathTunnel
	case r.OnLink, r.Via.IsLinkLocalUnicast():
		return PathGateway
	}
	return PathDirect
}

// reachAll decides how each subnet of sorted claims is reached.
//
// Existing routes stay while Nodes and options are the same, whatever happens on this host:
// addresses appear on load balancers' devices, network managers remove routes for a moment, and
// packets still take the routes that the kernel has, because it does not check a next hop again
// once a route exists.
func (b *builder) reachAll(claims []claim) {
	routes := b.actual.Routes
	for i := range claims {
		c := &claims[i]
		c.reach = b.resolver.nextHop(c.node, c.subnet)
		routes = from(routes, routeKey{c.subnet, MetricPeer})
		if len(routes) > 0 && leadsTo(routes[0], c.subnet) {
			b.keep(c, routes[0])
		}
		c.hadRoute = c.ok() || b.restore(c)
	}
}

// from returns the part of sorted routes that begins at a key. It takes few steps if that is near,
// and never many.
func from(sorted []*Route, key routeKey) []*Route {
	end := 1
	for end < len(sorted) && sorted[end-1].compareKey(key) < 0 {
		end *= 2
	}
	i, _ := slices.BinarySearchFunc(sorted[:min(end, len(sorted))], key, (*Route).compareKey)
	return sorted[i:]
}

// keep has a claim stay with its existing route, if the Node still has the next hop as an
// InternalIP, and only this host's routes to it changed. The route is replaced for a better
// InternalIP of the Node, or for a later one if the link of the former lost its carrier.
func (b *builder) keep(c *claim, have *Route) {
	if have.Via == c.via && have.Dev == c.dev {
		return
	}
	to := b.actual.Endpoint(have)
	if pathOf(have) == PathGateway {
		switch before := b.grantOf(c); {
		case before == nil: // after a restart
			to = c.addr
		case before.via == have.Via:
			to = before.addr
		}
	}
	if !slices.Contains(c.node.Addrs, to) || b.resolver.excluded(to) != "" || !b.opts.allows(pathOf(have)) {
		return
	}
	if c.ok() && (pathOf(have) != PathDirect || c.path != PathDirect) {
		return // the Path changes without a gap
	}
	better := slices.Index(c.node.Addrs, to) < slices.Index(c.node.Addrs, c.addr)
	dead := func(foreign Route) bool { return foreign.Dev == have.Dev && foreign.Dead }
	_, reason, why := b.resolver.onLink(to)
	var detail string
	switch stays := !c.ok() || reason != "" && better && !slices.ContainsFunc(b.host.Underlay(), dead); {
	case stays && reason != "":
		detail = why()
	case !stays && have.Via == c.addr:
		detail = b.resolver.shadowed(have.Via, have.Dev)
	}
	if detail != "" {
		kept := *have
		kept.Metric = PeerMetric(c.subnet)
		if pathOf(have) == PathTunnel {
			kept.Via = TunnelGateway(c.subnet) // another program may have changed it
		}
		why := c.problem(problem.RouteKept, "%s; the route %q was there before and stays, because the Node still has that address", detail, have)
		c.reach = reach{path: pathOf(have), addr: to, via: kept.Via, dev: kept.Dev, kept: b.shared(&kept), why: &why}
	}
}

// restore gives a claim its former route again if the only obstacle is that another device of this
// host has the next hop's address, such as kube-ipvs0: the kernel accepts such a route in IPv4, and
// uses it. After a restart the former route is unknown. It reports whether there was one.
func (b *builder) restore(c *claim) (had bool) {
	before := b.grantOf(c)
	if before == nil || !before.hadRoute || before.addr != c.addr {
		return false
	}
	if _, p := b.host.linkWith(c.addr); !p.IsValid() || !p.IsSingleIP() || b.resolver.excluded(c.addr) != "" {
		return true
	}
	if by, reason, _ := b.resolver.reached(c.addr); reason == "" {
		why := c.problem(problem.RouteKept, "InternalIP %s is %s; the subnet keeps its route by %s, because the Node still has that address", c.addr, b.resolver.local[c.addr], by.Dev)
		c.path, c.via, c.dev, c.why = PathDirect, c.addr, by.Dev, &why
	}
	return true
}

// avoidPods refuses InternalIPs and gateways in pod subnets, where packets to them would take routes of
// ours. The InternalIP of a Node on link is a next hop, so none does. With --cluster-cidr none of them
// may be in it. A route by the same gateway that was there before stays: another Node could choose its
// subnet to remove it.
func (b *builder) avoidPods() {
	if len(b.opts.ClusterCIDRs) > 0 {
		return
	}
	for _, c := range b.claims {
		if !c.ok() || c.path == PathDirect {
			continue
		}
		p, what := b.podSubnet(c.addr), fmt.Sprintf("InternalIP %s", c.addr)
		have := (*Route)(nil)
		if c.path == PathGateway && !p.IsValid() && !b.wentBy(c) {
			p, what, have = b.podSubnet(c.via), fmt.Sprintf("gateway %s of InternalIP %s", c.via, c.addr), b.inPlace(c.subnet)
		}
		if p.IsValid() {
			why := c.problem(problem.AddressRefused, "%s is inside %s, where pods live", what, p)
			c.reach = reach{addr: c.addr, why: &why}
		}
		if p.IsValid() && have != nil { // by another gateway, or on link
			b.keep(c, have)
		}
	}
}

// wentBy reports whether a claim's route already led to its gateway, by the grant or the kernel's route.
func (b *builder) wentBy(c *claim) bool {
	before, r := b.grantOf(c), b.inPlace(c.subnet)
	return before != nil && before.via == c.via || r != nil && r.Via == c.via
}

// podSubnet returns the pod subnet that contains an address, one of ours or a granted one, or the
// zero Prefix.
func (b *builder) podSubnet(addr netip.Addr) netip.Prefix {
	if c := claimAround(b.claims, addr); c != nil {
		return c.subnet
	}
	for _, own := range slices.Concat(b.subnets, b.attached) {
		if own.Contains(addr) {
			return own
		}
	}
	return netip.Prefix{}
}

// claimAround returns the one of sorted, disjoint claims whose subnet contains an address, or nil.
func claimAround(claims []*claim, addr netip.Addr) *claim {
	after, _ := slices.BinarySearchFunc(claims, addr, func(c *claim, addr netip.Addr) int { return cmp.Or(c.subnet.Addr().Compare(addr), -1) })
	if after > 0 && claims[after-1].subnet.Contains(addr) {
		return claims[after-1]
	}
	return nil
}

// yield decides about a desired route whose key a foreign route has as well. If ours exists and
// leads to its Node, it is returned and stays. Otherwise none is desired, because an addition would be
// refused, and a replacement hits the first in the kernel's list, which may be foreign
// (fib_table_insert of net/ipv4/fib_trie.c).
func (b *builder) yield(want *Route) *Route {
	have, c := RouteTo(b.actual.Routes, want.Dst, want.Metric), claimTo(b.claims, want.Dst)
	if have == nil || have.Type != want.Type {
		return nil
	}
	to := b.actual.Endpoint(have)
	if have.Via != want.Via && (c == nil || !b.mayLeadTo(have, c.node)) {
		return nil
	}
	if c != nil {
		c.path, c.via, c.dev = pathOf(have), have.Via, have.Dev
		if to.IsValid() {
			c.addr = to
		}
	}
	return have
}

// inPlace returns the existing route to a peer's subnet, or nil.
func (in *input) inPlace(subnet netip.Prefix) *Route {
	routes := from(in.actual.Routes, routeKey{subnet, MetricPeer})
	if len(routes) > 0 && leadsTo(routes[0], subnet) {
		return routes[0]
	}
	return nil
}

// leadsTo reports whether a route of ours leads to a peer's subnet.
func leadsTo(r *Route, subnet netip.Prefix) bool {
	return r.Dst == subnet && r.ToPeer() && r.Type == Unicast && r.Via.IsValid()
}
