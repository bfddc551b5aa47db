package topology

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// What is in place stays while Nodes and options say the same, whatever this host looks like:
// addresses come up on devices of load balancers, network managers take routes away for a
// moment, and the packets go on by the routes that the kernel has. It does not look at a next
// hop again once a route is there.

// keepAll goes over sorted claims and our table side by side.
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
			b.regain(c)
		}
		c.led = c.led || c.dev != ""
	}
}

// keep lets a claim stay with the route of ours that is in place, if its next hop is one that
// the Node states, and this host alone has changed its view of that.
func (b *builder) keep(c *claim, r Route) {
	if r.Via == c.addr && r.Dev == c.dev || !slices.Contains(c.node.Addrs, r.Via) || b.resolver.excluded(r.Via) != "" {
		return
	}
	detail := b.unseenBy(c, r)
	if detail == "" {
		return
	}
	kept := r // a copy, so that only a route which is kept is allocated
	c.addr, c.dev, c.kept = r.Via, r.Dev, &kept
	c.why = &problem.Problem{
		Subject: problem.Subject{Node: c.node.Name, Subnet: c.subnet}, Reason: problem.RouteKept,
		Message: fmt.Sprintf("%s; the route %q was there before and stays, because the Node still has that address", detail, r),
	}
}

// regain lets a claim that had a route before have it again, if nothing but an address
// on another device of this host is in the way, as on kube-ipvs0: the kernel takes such a
// route in IPv4, and goes by it. After a restart nobody knows that it was granted.
func (b *builder) regain(c *claim) {
	before := b.grantOf(c)
	c.led = before != nil && before.led && before.addr == c.addr
	if !c.led || b.resolver.excluded(c.addr) != "" || !b.resolver.singleElsewhere(c.addr) {
		return
	}
	dev, reason, _ := b.resolver.reached(c.addr)
	if reason != "" {
		return
	}
	c.dev = dev
	c.why = &problem.Problem{
		Subject: problem.Subject{Node: c.node.Name, Subnet: c.subnet}, Reason: problem.RouteKept,
		Message: fmt.Sprintf("InternalIP %s is %s; the subnet keeps its route by %s, because the Node still has that address", c.addr, b.resolver.local[c.addr], dev),
	}
}

// unseenBy says what this host has against a route that is in place, if it is no reason to
// leave it. Reasons to leave it are a better InternalIP of the Node, and a later one where
// the link of the former is without carrier.
func (b *builder) unseenBy(c *claim, r Route) string {
	_, reason, detail := b.resolver.onLink(r.Via)
	switch {
	case c.dev == "":
		return detail
	case reason != "" && slices.Index(c.node.Addrs, r.Via) < slices.Index(c.node.Addrs, c.addr) && !b.resolver.lostCarrier(r.Dev):
		return detail
	case r.Via == c.addr:
		return b.resolver.eclipse(r.Via, r.Dev)
	}
	return ""
}

// inPlace returns our table's route to a peer's subnet.
func (b *builder) inPlace(subnet netip.Prefix) (Route, bool) {
	i, ok := slices.BinarySearchFunc(b.actual.Routes, Route{Dst: subnet, Metric: MetricPeer}, Route.Compare)
	if !ok || !leadsTo(b.actual.Routes[i], subnet) {
		return Route{}, false
	}
	return b.actual.Routes[i], true
}

// leadsTo reports whether a route of ours is one to a peer's subnet.
func leadsTo(r Route, subnet netip.Prefix) bool {
	return r.Dst == subnet && r.Metric == MetricPeer && r.Type == Unicast && r.Via.Is4() == subnet.Addr().Is4()
}

// inPlaceOwn reports whether a subnet of our own has its route.
func (b *builder) inPlaceOwn(subnet netip.Prefix) bool {
	i, ok := slices.BinarySearchFunc(b.actual.Routes, Route{Dst: subnet, Metric: MetricOwn}, Route.Compare)
	return ok && b.actual.Routes[i].Type == Unreachable
}

// route returns the route that an accepted claim with a link gives rise to. While our own Node
// is away, which of our addresses is its InternalIP is not known, so the source stays.
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
