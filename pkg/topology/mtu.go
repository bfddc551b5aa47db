package topology

import (
	"cmp"
	"net/netip"
	"slices"
)

const (
	maxMTU  = 65535 // the largest one of a bridge or a veth device (ETH_MAX_MTU of linux/if_ether.h)
	minMTU4 = 68    // the smallest one of these devices, and of IPv4 (ETH_MIN_MTU, RFC 791)
	minMTU6 = 1280  // the smallest one of a link with IPv6 (RFC 8200, section 5)
)

// mtu returns the MTU of pods: the smallest one of the links to peers, in each family of pods, or
// else of the links of default routes; and of tunnels. Without such a link it stays as it is; 0:
// unknown.
func (b *builder) mtu() int {
	if b.opts.MTU != 0 {
		return b.opts.MTU
	}
	links := map[string]bool{}
	for _, p := range b.subnets {
		b.linksToPeers(links, p.Addr().Is4())
	}
	mtu := min(cmp.Or(b.leastMTU(links), b.leastMTU(b.defaultLinks())), maxMTU)
	for _, t := range b.desired.Tunnels {
		mtu = min(mtu, t.MTU)
	}
	if mtu == 0 && b.actual.CNI != nil {
		mtu = b.actual.CNI.MTU
	}
	return mtu
}

// defaultLinks returns the names of the links of default routes.
func (b *builder) defaultLinks() map[string]bool {
	names := map[string]bool{}
	for _, r := range b.host.Routes {
		if r.Dst.Bits() == 0 {
			names[r.Dev] = true
		}
	}
	return names
}

// linksToPeers adds the links to peers in a family: the link with our InternalIP, whatever links
// peers' InternalIPs are on, because a peer may have any. If that one leads nowhere, it adds the
// links of the peers' routes.
func (b *builder) linksToPeers(links map[string]bool, is4 bool) {
	if uplink, ok := b.uplink(is4); ok && b.leadsSomewhere(uplink) {
		links[uplink.Name] = true
		return
	}
	for _, r := range b.desired.Routes {
		if r.Dst.Addr().Is4() == is4 && r.Dev != "" && !isTunnel(r.Dev) {
			links[r.Dev] = true
		}
	}
}

// leadsSomewhere reports whether packets leave this host through a link. That excludes lo, dummy
// devices, and links with only single addresses that are routed to this host.
func (b *builder) leadsSomewhere(link Link) bool {
	if link.Loopback || link.Kind == KindDummy {
		return false
	}
	return slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return !p.IsSingleIP() }) ||
		slices.ContainsFunc(b.host.Routes, func(r Route) bool { return r.Dev == link.Name && r.Type == Unicast })
}

// leastMTU returns the smallest MTU of some links, except lo; 0: none of them exists.
func (b *builder) leastMTU(of map[string]bool) int {
	mtu := 0
	for _, link := range b.host.Links {
		if of[link.Name] && !link.Loopback && (mtu == 0 || link.MTU < mtu) {
			mtu = link.MTU
		}
	}
	return mtu
}
