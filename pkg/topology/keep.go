package topology

import (
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Existing routes stay while Nodes and options are the same, whatever happens on this host:
// addresses appear on load balancers' devices, network managers remove routes for a moment, and
// packets still take the routes that the kernel has, because it does not check a next hop again
// once a route exists.

func (b *builder) keepAll(claims []claim) {
	routes := b.actual.Routes
	for i := range claims {
		c := &claims[i]
		at := Route{Dst: c.subnet, Metric: MetricPeer}
		for len(routes) > 0 && routes[0].Compare(at) < 0 {
			routes = routes[1:]
		}
		if len(routes) > 0 && leadsTo(routes[0], c.subnet) {
			b.keep(c, routes[0])
		}
		if c.dev == "" {
			b.restore(c)
		}
		c.hadRoute = c.hadRoute || c.dev != ""
	}
}

// keep has a claim stay with its existing route, if the Node still has the next hop as an
// InternalIP, and only this host's routes to it changed.
func (b *builder) keep(c *claim, r Route) {
	if r.Via == c.addr && r.Dev == c.dev || !slices.Contains(c.node.Addrs, r.Via) || b.resolver.excluded(r.Via) != "" {
		return
	}
	detail := b.keepReason(c, r)
	if detail == "" {
		return
	}
	kept := r // a copy, so that only kept routes are allocated
	c.addr, c.dev, c.kept = r.Via, r.Dev, &kept
	why := c.problem(problem.RouteKept, "%s; the route %q was there before and stays, because the Node still has that address", detail, r)
	c.why = &why
}

// restore gives a claim its former route again if the only obstacle is that another device of this
// host has the next hop's address, such as kube-ipvs0: the kernel accepts such a route in IPv4, and
// uses it. After a restart the former route is unknown.
func (b *builder) restore(c *claim) {
	before := b.grantOf(c)
	c.hadRoute = before != nil && before.hadRoute && before.addr == c.addr
	if !c.hadRoute || b.resolver.excluded(c.addr) != "" || !b.resolver.singleElsewhere(c.addr) {
		return
	}
	dev, reason, _ := b.resolver.reached(c.addr)
	if reason != "" {
		return
	}
	c.dev = dev
	why := c.problem(problem.RouteKept, "InternalIP %s is %s; the subnet keeps its route by %s, because the Node still has that address", c.addr, b.resolver.local[c.addr], dev)
	c.why = &why
}

// keepReason returns why an existing route is kept although the resolver chose differently, or "".
// The route is replaced for a better InternalIP of the Node, or for a later one if the link of the
// former lost its carrier.
func (b *builder) keepReason(c *claim, r Route) string {
	_, reason, detail := b.resolver.onLink(r.Via)
	dead := func(foreign Route) bool { return foreign.Dev == r.Dev && foreign.Dead }
	switch {
	case c.dev == "":
		return detail
	case reason != "" && slices.Index(c.node.Addrs, r.Via) < slices.Index(c.node.Addrs, c.addr) && !slices.ContainsFunc(b.host.Routes, dead):
		return detail
	case r.Via == c.addr:
		return b.resolver.shadowed(r.Via, r.Dev)
	}
	return ""
}

// inPlace returns the existing route to a peer's subnet.
func (b *builder) inPlace(subnet netip.Prefix) (Route, bool) {
	i, ok := slices.BinarySearchFunc(b.actual.Routes, Route{Dst: subnet, Metric: MetricPeer}, Route.Compare)
	if !ok || !leadsTo(b.actual.Routes[i], subnet) {
		return Route{}, false
	}
	return b.actual.Routes[i], true
}

// leadsTo reports whether a route of ours leads to a peer's subnet.
func leadsTo(r Route, subnet netip.Prefix) bool {
	return r.Dst == subnet && r.Metric == MetricPeer && r.Type == Unicast && r.Via.Is4() == subnet.Addr().Is4()
}

// inPlaceOwn reports whether the unreachable route to a subnet of ours exists.
func (b *builder) inPlaceOwn(subnet netip.Prefix) bool {
	i, ok := slices.BinarySearchFunc(b.actual.Routes, Route{Dst: subnet, Metric: MetricOwn}, Route.Compare)
	return ok && b.actual.Routes[i].Type == Unreachable
}

// route returns the route for an accepted claim with a link. While our own Node is missing, its
// InternalIP is unknown, so the preferred source stays.
func (b *builder) route(c *claim) Route {
	if c.kept != nil {
		return *c.kept
	}
	r := Route{Dst: c.subnet, Via: c.addr, Dev: c.dev, Src: b.resolver.source(c.addr, c.dev), Protocol: Protocol, Metric: MetricPeer}
	if b.own == nil && !b.opts.Router {
		if have, ok := b.inPlace(c.subnet); ok && have.Via == r.Via && have.Dev == r.Dev {
			r.Src = have.Src
		}
	}
	return r
}
