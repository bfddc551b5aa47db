package topology

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// The table "who may hold an address or a route in a pod range" of docs/design.md, in code.

// protocolKernel is RTPROT_KERNEL of linux/rtnetlink.h. Routes with it come with an address, and
// lead to the prefix, or the peer, that the address is connected to. Routes of other programs don't
// show that a range is in use: a tunnel's may be as wide as 10.0.0.0/8, and pods may be in there.
const protocolKernel = 2

// hostRanges are the ranges of this host that pod subnets may overlap.
type hostRanges struct {
	*resolver
	cluster  []netip.Prefix  // --cluster-cidr, disjoint
	uplinked map[string]bool // the names of the links by which this host is reached
	held     []taken         // what a pod subnet must not hide
	wider    []taken         // networks around a range of --cluster-cidr, one address of each
	leftover []taken         // single addresses in our own subnets, on devices of other networks, with remediation
}

func rangesOf(r *resolver) *hostRanges {
	h := &hostRanges{resolver: r, cluster: Outermost(r.opts.ClusterCIDRs), uplinked: r.uplinkNames()}
	for _, link := range h.host.Links {
		if link.Name == h.opts.Bridge {
			continue
		}
		for _, p := range link.Addrs {
			h.address(p, link)
		}
	}
	for _, route := range h.host.Routes {
		switch {
		case route.Via.IsValid():
			if h.isNeeded(route) {
				h.take(single(route.Via), "gateway "+route.Via.String())
			}
		case route.Protocol == protocolKernel && route.Type == Unicast && route.Dev != h.opts.Bridge && !wide(route.Dst) && !h.isWider(route.Dst) && !ofAddress(h.host, route):
			h.take(route.Dst, fmt.Sprintf("%s, connected to %s of this host", route.Dst, route.Dev))
		}
	}
	for _, addr := range h.host.Nameservers {
		h.take(single(addr), "nameserver "+addr.String())
	}
	for _, addr := range h.opts.APIServers {
		h.take(single(addr), "API server "+addr.String())
	}
	return h
}

// ofAddress reports whether a route leads to a single address that its link has. The kernel makes
// such a route in IPv6 only; the address suffices.
func ofAddress(host Host, r Route) bool {
	link, as := host.linkWith(r.Dst.Addr())
	return r.Dst.IsSingleIP() && as.IsValid() && link.Name == r.Dev
}

// uplinkNames returns the names of the links by which this host is reached: those with an
// InternalIP of our Node, and those of default routes.
func (in *input) uplinkNames() map[string]bool {
	names := map[string]bool{}
	for _, addr := range in.ownAddrs {
		if link, p := in.host.linkWith(addr); p.IsValid() {
			names[link.Name] = true
		}
	}
	for i := range in.host.Routes {
		if wide(in.host.Routes[i].Dst) {
			names[in.host.Routes[i].Dev] = true
		}
	}
	return names
}

func (h *hostRanges) take(p netip.Prefix, what string) {
	if overlapsCluster(h.opts, p) {
		h.held = append(h.held, taken{p, what})
	}
}

// address takes the prefix of an address, or, if that is around the pods' range, the address alone.
// A single address in our own subnet, on a device that other machines don't use, costs at most one
// pod its address.
func (h *hostRanges) address(p netip.Prefix, link Link) {
	what := fmt.Sprintf("%s on %s of this host", p, link.Name)
	switch {
	case wide(p):
		h.take(single(p.Addr()), what)
	case h.isWider(p.Masked()):
		if !slices.ContainsFunc(h.wider, func(t taken) bool { return t.Prefix == p.Masked() }) {
			h.wider = append(h.wider, taken{p.Masked(), what})
		}
		h.take(single(p.Addr()), what)
	case p.IsSingleIP() && !link.Loopback && !h.uplinked[link.Name] && within(h.ownCIDRs, p):
		remediation := "delete the device if another pod network left it behind"
		if link.Name == ipvsDevice {
			remediation = "take it from the Service that has it (externalIPs, a load balancer's address)"
		}
		h.leftover = append(h.leftover, taken{p, what + " is inside this node's podCIDR; " + remediation})
	default:
		h.take(p.Masked(), what)
	}
}

// isWider reports whether a prefix contains a range of --cluster-cidr and more, such as a LAN of
// 10.0.0.0/8 around 10.244.0.0/16. The operator has chosen the more specific range for pods.
func (h *hostRanges) isWider(p netip.Prefix) bool {
	return slices.ContainsFunc(h.cluster, func(c netip.Prefix) bool { return p.Bits() < c.Bits() && p.Contains(c.Addr()) })
}

// isNeeded reports whether this host needs a route's gateway. That excludes local pods, and
// gateways that only the route itself leads to: an overlay network's is its address on a peer
// (10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink).
func (h *hostRanges) isNeeded(r Route) bool {
	switch {
	case r.Dev == h.opts.Bridge:
		return false
	case wide(r.Dst):
		return true
	case within(h.ownCIDRs, single(r.Via)):
		return false
	}
	way := h.index.lookup(r.Via)
	alone := way == nil || way.Via == r.Via || way.Dst.Bits() < r.Dst.Bits()
	return !alone || !r.Dst.Contains(r.Via)
}

// bounds returns what pod subnets must never overlap because of options and standards.
func bounds(opts Options) []taken {
	var ranges []taken
	for _, p := range opts.ServiceCIDRs {
		ranges = append(ranges, taken{p.Masked(), "service range " + p.String()})
	}
	for _, p := range special {
		if p == reserved && slices.ContainsFunc(opts.ClusterCIDRs, func(c netip.Prefix) bool { return within([]netip.Prefix{reserved}, c) }) {
			p = single(Last(reserved)) // the limited broadcast address
		}
		ranges = append(ranges, taken{p, "special range " + p.String()})
	}
	return slices.DeleteFunc(ranges, func(t taken) bool { return !overlapsCluster(opts, t.Prefix) })
}

// overlapsCluster reports whether a range can matter to any claim.
func overlapsCluster(opts Options, p netip.Prefix) bool {
	return len(opts.ClusterCIDRs) == 0 || slices.ContainsFunc(opts.ClusterCIDRs, p.Overlaps)
}

// unroutable reports InternalIPs of our own Node that agents with the same options refuse as a next
// hop.
func (b *builder) unroutable() {
	for _, p := range b.own.PodCIDRs {
		addr := b.own.firstAddr(p.Addr().Is4())
		others := slices.ContainsFunc(b.own.Addrs, func(a netip.Addr) bool { return a.Is4() == p.Addr().Is4() && b.resolver.excluded(a) == "" })
		if addr.IsValid() && !others {
			b.warn(problem.AddressRefused, "InternalIP %s %s, so no other node routes to this node's pods", addr, b.resolver.excluded(addr))
		}
	}
}
