package topology

import (
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A reach is the decision how packets get to a peer's subnet. It is made here, from this host's
// routes; our route, settings and nftables sets follow from it.
type reach struct {
	addr netip.Addr       // the InternalIP that counts: the next hop, if there is a link
	dev  string           // the link that it is on; empty: the subnet is not reached
	kept *Route           // our existing route that stays, although this host's routes to the next hop changed
	why  *problem.Problem // why the subnet is not reached, or why the route is kept
}

func (r *reach) ok() bool { return r.dev != "" }

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
		for at := (Route{Dst: c.subnet, Metric: MetricPeer}); len(routes) > 0 && routes[0].Compare(at) < 0; {
			routes = routes[1:]
		}
		if len(routes) > 0 && leadsTo(routes[0], c.subnet) {
			b.keep(c, routes[0])
		}
		c.hadRoute = c.ok() || b.restore(c)
	}
}

// keep has a claim stay with its existing route, if the Node still has the next hop as an
// InternalIP, and only this host's routes to it changed. The route is replaced for a better
// InternalIP of the Node, or for a later one if the link of the former lost its carrier.
func (b *builder) keep(c *claim, have Route) {
	if have.Via == c.addr && have.Dev == c.dev || !slices.Contains(c.node.Addrs, have.Via) || b.resolver.excluded(have.Via) != "" {
		return
	}
	better := slices.Index(c.node.Addrs, have.Via) < slices.Index(c.node.Addrs, c.addr)
	dead := func(foreign Route) bool { return foreign.Dev == have.Dev && foreign.Dead }
	_, reason, detail := b.resolver.onLink(have.Via)
	if stays := !c.ok() || reason != "" && better && !slices.ContainsFunc(b.host.Routes, dead); !stays {
		detail = ""
		if have.Via == c.addr {
			detail = b.resolver.shadowed(have.Via, have.Dev)
		}
	}
	if detail != "" {
		kept := have // a copy, so that only kept routes are allocated
		why := c.problem(problem.RouteKept, "%s; the route %q was there before and stays, because the Node still has that address", detail, have)
		c.reach = reach{have.Via, have.Dev, &kept, &why}
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
	if dev, reason, _ := b.resolver.reached(c.addr); reason == "" {
		why := c.problem(problem.RouteKept, "InternalIP %s is %s; the subnet keeps its route by %s, because the Node still has that address", c.addr, b.resolver.local[c.addr], dev)
		c.dev, c.why = dev, &why
	}
	return true
}

// yield decides about a desired route whose key a foreign route has as well. If ours exists and
// leads to its Node, it stays as it is. Otherwise it is not desired, because an addition would be
// refused, and a replacement hits the first in the kernel's list, which may be foreign
// (fib_table_insert of net/ipv4/fib_trie.c).
func (b *builder) yield(want *Route) (stays bool) {
	have, c := routeTo(b.actual.Routes, want.Dst, want.Metric), claimTo(b.claims, want.Dst)
	if have == nil || have.Type != want.Type || have.Via != want.Via && (c == nil || !slices.Contains(c.node.Addrs, have.Via)) {
		return false
	}
	if *want = *have; c != nil {
		c.addr, c.dev = have.Via, have.Dev
	}
	return true
}

// inPlace returns the existing route to a peer's subnet, or nil.
func (b *builder) inPlace(subnet netip.Prefix) *Route {
	if r := routeTo(b.actual.Routes, subnet, MetricPeer); r != nil && leadsTo(*r, subnet) {
		return r
	}
	return nil
}

// leadsTo reports whether a route of ours leads to a peer's subnet.
func leadsTo(r Route, subnet netip.Prefix) bool {
	return r.Dst == subnet && r.Metric == MetricPeer && r.Type == Unicast && r.Via.Is4() == subnet.Addr().Is4()
}
