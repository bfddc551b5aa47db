package topology

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A resolver finds out how this host reaches an address, from the foreign routes. A
// link's address of the same network does not suffice, because of /32 addresses with an on-link
// gateway, noprefixroute and more specific routes.
type resolver struct {
	*input
	local    map[netip.Addr]string // our own addresses, including broadcast ones, and what they are
	index    index[Route]          // foreign routes, the best one of each prefix
	links    map[string]Link       // by name
	sources  map[outlet]netip.Addr // our InternalIPs as preferred sources, where the kernel would have a choice
	tunnels  byFamily[*Tunnel]     // those that this host has, or will have
	noTunnel byFamily[string]      // why there is none
}

type outlet struct {
	dev string
	is4 bool
}

func newResolver(in *input) *resolver {
	r := &resolver{
		input: in, local: map[netip.Addr]string{}, index: newRouteIndex(in.host.Underlay()),
		links: map[string]Link{}, sources: map[outlet]netip.Addr{},
	}
	for _, link := range in.host.Links {
		r.links[link.Name] = link
		for _, p := range link.Addrs {
			r.addLocal(link.Name, p)
		}
		for _, addr := range in.ownAddrs {
			if on := (outlet{link.Name, addr.Is4()}); !r.sources[on].IsValid() && link.hasBesideOthers(addr) {
				r.sources[on] = addr
			}
		}
	}
	return r
}

func (r *resolver) addLocal(link string, p netip.Prefix) {
	if p.Bits() < p.Addr().BitLen()-1 {
		r.local[p.Masked().Addr()] = fmt.Sprintf("the network address of %s on %s", p.Masked(), link)
		if p.Addr().Is4() {
			r.local[Last(p.Masked())] = fmt.Sprintf("the broadcast address of %s on %s", p.Masked(), link)
		}
	}
	what := "an address of this host, on " + link
	if link == ipvsDevice {
		what += ", which has the externalIPs and load balancer addresses of Services"
	}
	r.local[p.Addr()] = what
}

// ipvsDevice has the addresses of Services if kube-proxy uses IPVS (defaultDummyDevice of
// pkg/proxy/ipvs/proxier.go).
const ipvsDevice = "kube-ipvs0"

// shadowed returns the reason, or "", if an address is still on the link of a device, and another
// device's connected network, such as Docker's, contains it with a longer prefix. Unlike a route
// that a program added, that is not a decision about the Node.
func (r *resolver) shadowed(addr netip.Addr, dev string) string {
	front := r.index.lookup(addr)
	behind := func(s Route) bool {
		return s.Dev == dev && s.Dst.Bits() < front.Dst.Bits() && s.Dst.Contains(addr) && !s.passedOver() && s.proof() == provesOnLink && !wide(s.Dst)
	}
	if front.Protocol != protocolKernel || !slices.ContainsFunc(r.host.Underlay(), behind) {
		return ""
	}
	return fmt.Sprintf("InternalIP %s is on %s and, by %q, on %s", addr, dev, *front, front.Dev)
}

// nextHop decides how a Node's subnet is reached: by its first InternalIP of that family that is on
// a link with a carrier, else by the first one that is on link or reached in another way, else not at
// all, because of the first one's reason.
func (r *resolver) nextHop(node *Node, to netip.Prefix) (found reach) {
	is4 := to.Addr().Is4()
	var first detail
	for _, addr := range node.Addrs {
		if addr.Is4() != is4 {
			continue
		}
		way, onLink, reason, why := r.way(addr, to)
		if first != nil {
			way.before = first()
		}
		if onLink && way.ok() {
			if !r.links[way.by.Dev].NoCarrier {
				return way
			}
			why = say("InternalIP %s is on %s, which has no carrier", addr, way.by.Dev)
		}
		if first == nil {
			first = why
		}
		switch {
		case way.ok() && !found.ok():
			found = way
		case !found.ok() && found.why == nil:
			why := problemOf(node.Name, to, reason, "%s", why())
			found = reach{addr: addr, why: &why}
		}
	}
	if !found.ok() && found.why == nil {
		why := problemOf(node.Name, to, problem.AddressMissing, "no %s InternalIP to route its pod subnet to", familyName(is4))
		found.why = &why
	}
	return found
}

// way decides how a subnet is reached by an InternalIP of its Node, or returns the reason why it is
// not, and in each case the detail of why the InternalIP is not on link.
func (r *resolver) way(addr netip.Addr, to netip.Prefix) (way reach, onLink bool, reason problem.Reason, why detail) {
	by, reason, why := r.onLink(addr)
	way = reach{addr: addr, by: by}
	if onLink = reason == ""; onLink && !r.wraps(by) {
		way.path, way.via, way.dev = PathDirect, addr, by.Dev
		return way, true, "", nil
	}
	switch {
	case !onLink && (reason != problem.OffLink || !r.leaves(by)):
		return reach{}, false, reason, why
	case r.opts.Encapsulates():
		t := *r.tunnels.of(addr.Is4())
		if t == nil {
			return reach{}, false, problem.OffLink, say("InternalIP %s would be reached by a tunnel, and there is none: %s", addr, *r.noTunnel.of(addr.Is4()))
		}
		way.path, way.via, way.dev = PathTunnel, TunnelGateway(to), t.Name
	case r.opts.OffLink == OffLinkUnderlay:
		way.path = PathUnderlay
	case r.opts.OffLink == OffLinkGateway && by.Via.IsValid():
		if _, ours := r.local[by.Via]; ours || r.ofPod(by.Via) {
			return reach{}, false, problem.OffLink, say("InternalIP %s is behind gateway %s, which is an address of this host or of a pod", addr, by.Via)
		}
		way.path, way.via, way.dev = PathGateway, by.Via, by.Dev
	default:
		return reach{}, false, reason, why
	}
	return way, onLink, "", why
}

// ofPod reports whether an address is in pods' ranges, other than peers' subnets: avoidPods looks
// for these.
func (r *resolver) ofPod(addr netip.Addr) bool {
	return within(r.opts.ClusterCIDRs, single(addr)) || within(r.ownCIDRs, single(addr)) || within(r.attached, single(addr))
}

// wraps reports whether packets to a peer that is on link take a tunnel. In a network with tunnels
// they do on a point-to-point link, where the route's next hop is not in the packet: WireGuard
// chooses the peer by the destination, and may know the addresses of nodes alone.
func (r *resolver) wraps(by *Route) bool {
	return r.opts.Encapsulation == EncapsulateAlways || r.opts.Encapsulation == EncapsulateCrossSubnet && r.links[by.Dev].PointToPoint
}

// leaves reports whether packets leave this host by a route, without a tunnel of ours.
func (r *resolver) leaves(by *Route) bool {
	return by != nil && by.Type == Unicast && !by.From.IsValid() && by.Dev != "" && !r.links[by.Dev].Loopback && by.Dev != r.opts.Bridge && !isTunnel(by.Dev)
}

// onLink returns the route by which addr is reached without a gateway, or why it can't be a next
// hop. If that is because it is not on link, the route, if there is one, leads there all the same.
func (r *resolver) onLink(addr netip.Addr) (by *Route, reason problem.Reason, why detail) {
	if what, ok := r.local[addr]; ok {
		return nil, problem.AddressRefused, say("InternalIP %s is %s", addr, what)
	}
	if why := r.excluded(addr); why != "" {
		return nil, problem.AddressRefused, say("InternalIP %s %s", addr, why)
	}
	return r.reached(addr)
}

// A detail returns why an address is no next hop. That of thousands of peers behind a router would
// be text that none reads, because a tunnel leads there.
type detail func() string

func say(format string, args ...any) detail {
	return func() string { return fmt.Sprintf(format, args...) }
}

// reached does the same as onLink for an address that is not this host's.
func (r *resolver) reached(addr netip.Addr) (route *Route, reason problem.Reason, why detail) {
	route = r.index.lookup(addr)
	switch {
	case route != nil && route.From.IsValid():
		return route, problem.OffLink, say("InternalIP %s is reached by %q, which packets of other sources may not take", addr, *route)
	case route == nil || route.Type == throw || route.Type != Unicast && wide(route.Dst):
		return route, problem.OffLink, say("InternalIP %s: this host has no route to it%s", addr, r.linkHint(addr))
	case route.Via.IsValid():
		by := route // the result is assigned later, and would be allocated for each address
		return route, problem.OffLink, func() string { return r.behindGateway(addr, by) }
	case route.Type != Unicast || r.links[route.Dev].Loopback || route.Dev == r.opts.Bridge || isTunnel(route.Dev):
		return route, problem.AddressRefused, say("InternalIP %s is reached by %q, which leads to no other machine", addr, *route)
	case route.Encap:
		return route, problem.OffLink, say("InternalIP %s is reached by %q with an encapsulation, not on a link of ours", addr, *route)
	case route.Dev == "":
		return route, problem.OffLink, say("InternalIP %s is reached by %q, which names no link", addr, *route)
	case wide(route.Dst):
		return route, problem.OffLink, say("InternalIP %s is reached by %q, which is as wide as a default route and shows no neighbor%s", addr, *route, r.linkHint(addr))
	}
	return route, "", nil
}

func (r *resolver) behindGateway(addr netip.Addr, by *Route) string {
	text := fmt.Sprintf("InternalIP %s is behind gateway %s on %s, not on a link of ours", addr, by.Via, by.Dev)
	if wide(by.Dst) {
		text += r.linkHint(addr)
	}
	return text
}

const throw RouteType = "throw" // a route that ends the lookup in its table; no table follows the main one

// excluded returns why the operator's options exclude an address as a next hop, or "".
func (r *resolver) excluded(addr netip.Addr) string {
	switch {
	case len(r.opts.NodeCIDRs) > 0 && !within(r.opts.NodeCIDRs, single(addr)):
		return "is outside --node-cidr"
	case within(r.opts.ClusterCIDRs, single(addr)):
		return "is inside --cluster-cidr, where pods live"
	}
	return ""
}

// linkHint returns the link with an address of the network of addr, for a problem because of a
// missing route: the link may be down, or in a VRF, or a network manager may have removed it.
func (r *resolver) linkHint(addr netip.Addr) string {
	for _, link := range r.host.Links {
		switch {
		case !within(link.Addrs, single(addr)):
		case link.VRF != "" && link.VRFTable != r.opts.RouteTable:
			return fmt.Sprintf(", though %s has an address of its network (it is in the VRF %s, so its routes are not in the main table)", link.Name, link.VRF)
		default:
			return fmt.Sprintf(", though %s has an address of its network (is that link down, or its route gone?)", link.Name)
		}
	}
	return ""
}
