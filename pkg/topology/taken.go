package topology

import (
	"fmt"
	"net/netip"
	"slices"
)

// The table "who may hold an address or a route in a pod range" of docs/design.md, in code.

// protocolKernel is RTPROT_KERNEL of linux/rtnetlink.h. Routes with it come with an address, and
// lead to the prefix, or the peer, that the address is connected to. Routes of other programs don't
// show that a range is in use: a tunnel's may be as wide as 10.0.0.0/8, and pods may be in there.
const protocolKernel = 2

// findTaken collects the ranges of this host that pod subnets may overlap.
func (v *validator) findTaken() {
	for _, link := range v.host.Links {
		if link.Name == v.opts.Bridge {
			continue
		}
		for _, p := range link.Addrs {
			v.address(p, link)
		}
	}
	for _, route := range v.host.AllRoutes() {
		switch {
		case route.Via.IsValid():
			if v.isNeeded(route) {
				v.take(single(route.Via), "gateway "+route.Via.String())
			}
		case route.Protocol == protocolKernel && route.Type == Unicast && route.Dev != v.opts.Bridge && !wide(route.Dst) && !v.isWider(route.Dst) && !ofAddress(v.host, route):
			v.take(route.Dst, fmt.Sprintf("%s, connected to %s of this host", route.Dst, route.Dev))
		}
	}
	for _, addr := range v.host.Nameservers {
		v.take(single(addr), "nameserver "+addr.String())
	}
	for _, addr := range v.opts.APIServers {
		v.take(single(addr), "API server "+addr.String())
	}
	v.taken = newTakenIndex(v.held)
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
	routes := in.host.AllRoutes()
	for i := range routes {
		if wide(routes[i].Dst) {
			names[routes[i].Dev] = true
		}
	}
	return names
}

func (v *validator) take(p netip.Prefix, what string) {
	if overlapsCluster(v.opts, p) {
		v.held = append(v.held, taken{p, what})
	}
}

// address takes the prefix of an address, or, if that is around the pods' range, the address alone.
// A single address in our own subnet, on a device that other machines don't use, costs at most one
// pod its address.
func (v *validator) address(p netip.Prefix, link Link) {
	what := fmt.Sprintf("%s on %s of this host", p, link.Name)
	switch {
	case wide(p):
		v.take(single(p.Addr()), what)
	case v.isWider(p.Masked()):
		if !slices.ContainsFunc(v.wider, func(t taken) bool { return t.Prefix == p.Masked() }) {
			v.wider = append(v.wider, taken{p.Masked(), what})
		}
		v.take(single(p.Addr()), what)
	case p.IsSingleIP() && !link.Loopback && !v.uplinked[link.Name] && within(v.ownCIDRs, p):
		remediation := "delete the device if another pod network left it behind"
		if link.Name == ipvsDevice {
			remediation = "take it from the Service that has it (externalIPs, a load balancer's address)"
		}
		v.leftover = append(v.leftover, taken{p, what + " is inside this node's podCIDR; " + remediation})
	default:
		v.take(p.Masked(), what)
	}
}

// isWider reports whether a prefix contains a range of --cluster-cidr and more, such as a LAN of
// 10.0.0.0/8 around 10.244.0.0/16. The operator has chosen the more specific range for pods.
func (v *validator) isWider(p netip.Prefix) bool {
	return slices.ContainsFunc(v.cluster, func(c netip.Prefix) bool { return p.Bits() < c.Bits() && p.Contains(c.Addr()) })
}

// isNeeded reports whether this host needs a route's gateway. That excludes local pods, and
// gateways that only the route itself leads to: an overlay network's is its address on a peer
// (10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink).
func (v *validator) isNeeded(r Route) bool {
	switch {
	case r.Dev == v.opts.Bridge:
		return false
	case wide(r.Dst):
		return true
	case within(v.ownCIDRs, single(r.Via)):
		return false
	}
	way := v.index.lookup(r.Via)
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
