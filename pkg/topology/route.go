package topology

import (
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// route returns the route to a subnet that is reached. While our own Node is missing, its
// InternalIP is unknown, so the preferred source stays.
func (b *builder) route(c *claim) *Route {
	if c.kept != nil {
		return c.kept
	}
	is4 := c.subnet.Addr().Is4()
	src := b.resolver.sources[outlet{c.dev, is4}]
	if c.path == PathTunnel {
		src = b.tunnelSource(is4)
	}
	onLink := c.path != PathDirect && !c.via.IsLinkLocalUnicast() // IPv6 takes those on any link
	r := Route{Dst: c.subnet, Via: c.via, Dev: c.dev, Src: src, OnLink: onLink, Protocol: Protocol, Metric: PeerMetric(c.subnet)}
	if b.own == nil && !b.opts.Router {
		if have := b.inPlace(c.subnet); have != nil && have.Via == r.Via && have.Dev == r.Dev {
			r.Src = have.Src
		}
	}
	return b.shared(&r)
}

// shared returns the equal route that exists, or else r itself.
func (b *builder) shared(r *Route) *Route {
	if have := RouteTo(b.actual.Routes, r.Dst, r.Metric); have != nil && *have == *r {
		return have
	}
	return r
}

// nextHops finds the addresses of Nodes to which pods' packets are not masqueraded, and reports Nodes
// with one InternalIP. A tunnel leads to pods only: packets to the Node itself go through the
// underlay, which may know no pod, so they are masqueraded. So are those to another Node that is not on
// link, unless --node-cidr bounds InternalIPs: a kubelet could cut all pods off from any address.
//
// Neither is refused: a Node can misdirect its own subnet only, and a refusal would let one kubelet
// disconnect others.
func (b *builder) nextHops() {
	hops, left := make([]netip.Addr, 0, len(b.claims)), b.essential()
	for i, c := range b.claims {
		if c.ok() {
			hops = append(hops, c.addr)
			if bounded := len(b.opts.NodeCIDRs) > 0; c.path == PathTunnel || c.path != PathDirect && !bounded {
				left = append(slices.Grow(left, len(b.claims)-i), c.addr)
			}
		}
	}
	sortAddrs(hops)
	b.hops = slices.Compact(hops)
	shared := len(b.hops) < len(hops)
	sortAddrs(left)
	masqueraded := func(a netip.Addr) bool {
		_, found := slices.BinarySearchFunc(left, a, netip.Addr.Compare)
		return found
	}
	if b.hops = slices.Clone(slices.DeleteFunc(b.hops, masqueraded)); !shared { // which is kept, for tunnels without most of them
		return
	}
	holder := make(map[netip.Addr]*Node, len(b.hops))
	for _, c := range b.claims {
		if first := holder[c.addr]; first != nil && first != c.node && c.ok() {
			b.report(problemOf(c.node.Name, netip.Prefix{}, problem.AddressShared, "InternalIP %s is also that of node %s; only one of them can have it", c.addr, first.Name))
		} else if c.ok() {
			holder[c.addr] = c.node
		}
	}
}

// essential returns the gateways and nameservers of this host, which may not have a route back.
// Pods' packets to them are masqueraded, so that a kubelet can't disconnect all pods from one by
// claiming its address.
func (b *builder) essential() []netip.Addr {
	addrs := slices.Clone(b.host.Nameservers)
	for _, r := range b.host.AllRoutes() {
		if r.Via.IsValid() && wide(r.Dst) {
			addrs = append(addrs, r.Via)
		}
	}
	return addrs
}

// conflicts reports foreign routes that the kernel prefers to ours, or that have our key. Ours stay
// at their own metric, and carry the packets as soon as the foreign one is gone.
func (b *builder) conflicts() {
	slices.SortFunc(b.desired.Routes, CompareRoutes)
	reported := map[netip.Prefix]bool{} // one route to a part of each subnet is, because there may be one for each pod
	for _, foreign := range b.host.Beside() {
		if foreign.Dev == b.opts.Bridge && (len(b.subnets) == 0 || slices.Contains(b.subnets, foreign.Dst) || slices.Contains(b.former, foreign.Dst)) {
			continue // the bridge's own route to a subnet that pods use, or may use
		}
		i, same := slices.BinarySearchFunc(b.desired.Routes, foreign.Dst, func(r *Route, dst netip.Prefix) int { return ComparePrefix(r.Dst, dst) })
		if !same {
			if i > 0 && !reported[b.desired.Routes[i-1].Dst] {
				ours := b.desired.Routes[i-1]
				reported[ours.Dst] = b.partConflict(ours, foreign)
			}
			continue
		}
		ours := b.desired.Routes[i]
		switch {
		case foreign.TOS == 0 && foreign.Metric == ours.Metric:
			b.routeConflict(ours, "%q, which is not ours, has the metric of %q; remove it, or give it another", foreign, ours)
			if stays := b.yield(ours); stays != nil {
				b.desired.Routes[i] = stays
			} else {
				b.desired.Routes = slices.Delete(b.desired.Routes, i, i+1)
			}
		case !foreign.Dead && (foreign.TOS != 0 || foreign.Metric < ours.Metric):
			b.routeConflict(ours, "the kernel prefers %q, which is not ours, to %q; remove it if nothing needs it", foreign, ours)
		}
	}
}

// partConflict reports whether a foreign route leads to a part of a pod subnet, and adds the
// Problem: the kernel prefers it to ours at any metric. In our own subnet only those matter that
// lead nowhere or off this host, such as Calico's leftovers: other networks have a route to each of
// their pods.
func (b *builder) partConflict(ours *Route, foreign Route) bool {
	switch {
	case !ours.Dst.Contains(foreign.Dst.Addr()):
		return false
	case ours.Metric != MetricOwn:
		b.routeConflict(ours, "the kernel prefers %q, which is not ours, to %q for a part of it; remove it if nothing needs it", foreign, ours)
		return true
	case !foreign.LeavesOwnSubnet(b.opts.Bridge, b.validator.uplinked):
		return false
	}
	where := "off this node"
	if foreign.LeadsNowhere() {
		where = "nowhere"
	}
	b.routeConflict(ours, "%q, which is not ours, leads %s, so pods with addresses in it are cut off; remove it if nothing needs it", foreign, where)
	return true
}

func (b *builder) routeConflict(ours *Route, format string, args ...any) {
	owner := b.opts.NodeName
	if c := claimTo(b.claims, ours.Dst); c != nil {
		owner = c.node.Name
	}
	b.report(problemOf(owner, ours.Dst, problem.RouteConflict, format, args...).Blocking(ours.Metric == MetricOwn))
}
