package topology

import (
	"cmp"
	"net/netip"
	"slices"
)

const (
	// maxMTU is the most that the kernel gives a bridge or a veth device (ETH_MAX_MTU of
	// linux/if_ether.h).
	maxMTU = 65535
	// minMTU4 is the least that it gives them, and that IPv4 takes (ETH_MIN_MTU, RFC 791).
	minMTU4 = 68
	// minMTU6 is the least MTU of a link that carries IPv6 (RFC 8200, section 5).
	minMTU6 = 1280
)

// leastMTUOf returns the least MTU with which pods can have addresses of the subnets.
func leastMTUOf(subnets []netip.Prefix) int {
	if slices.ContainsFunc(subnets, is6) {
		return minMTU6
	}
	return minMTU4
}

// mtu returns the MTU of pods: the least of the links that lead to peers, in each family that
// pods have, or else of those of the default routes. While there is none of them, it stays as it
// is; 0: it is not known.
func (b *builder) mtu() int {
	if b.opts.MTU != 0 {
		return b.opts.MTU
	}
	links, defaults := map[string]bool{}, map[string]bool{}
	for _, p := range b.subnets {
		b.linksToPeers(links, p.Addr().Is4())
	}
	for _, r := range b.host.Routes {
		if r.Dst.Bits() == 0 {
			defaults[r.Dev] = true
		}
	}
	mtu := cmp.Or(b.leastMTU(links), b.leastMTU(defaults))
	if mtu == 0 && b.actual.CNI != nil {
		mtu = b.actual.CNI.MTU
	}
	return min(mtu, maxMTU)
}

// linksToPeers adds the links by which peers are reached in a family: the link that bears our
// InternalIP, whatever other links peers' InternalIPs are on, because a peer may state any.
// Where that one leads nowhere, it is the links of the peers' routes.
func (b *builder) linksToPeers(links map[string]bool, is4 bool) {
	if uplink, ok := b.uplink(is4); ok && b.leadsSomewhere(uplink) {
		links[uplink.Name] = true
		return
	}
	for _, r := range b.desired.Routes {
		if r.Dst.Addr().Is4() == is4 && r.Dev != "" {
			links[r.Dev] = true
		}
	}
}

// leadsSomewhere reports whether packets leave this host by a link. By lo and dummy devices
// none does, nor by one that merely bears single addresses that are routed to this host.
func (b *builder) leadsSomewhere(link Link) bool {
	if link.Loopback || link.Kind == KindDummy {
		return false
	}
	return slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return !p.IsSingleIP() }) ||
		slices.ContainsFunc(b.host.Routes, func(r Route) bool { return r.Dev == link.Name && r.Type == Unicast })
}

// leastMTU returns the least MTU of some links, lo left out; 0: there is none of them.
func (b *builder) leastMTU(of map[string]bool) int {
	mtu := 0
	for _, link := range b.host.Links {
		if of[link.Name] && !link.Loopback && (mtu == 0 || link.MTU < mtu) {
			mtu = link.MTU
		}
	}
	return mtu
}
