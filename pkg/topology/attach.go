package topology

import (
	"cmp"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// cni computes our CNI config. It makes the Node Ready, so it changes only while this node has no
// problem, and is never removed: without it, deleted pods stay Terminating.
func (b *builder) cni() {
	blocks := func(p problem.Problem) bool {
		return p.BlocksReady && p.Reason != problem.SubnetChanged && p.Reason != problem.CNIConflict
	}
	if b.opts.Router || slices.ContainsFunc(b.problems, blocks) {
		b.desired.CNI = b.actual.CNI
		return
	}
	conf := &CNI{
		Bridge: b.opts.Bridge, MTU: b.mtu(), Subnets: b.configSubnets(), IPAMDir: filepath.Join(b.opts.RunDir, IPAMDir),
		Firewall: b.opts.Firewall, Spec11: b.acceptCNI11(), Plugins: b.chained(), Layout: b.opts.layout(),
	}
	least := minMTU4
	if hasFamily(conf.Subnets, false) {
		least = minMTU6
	}
	if conf.MTU != 0 && conf.MTU < least {
		source, remediation := "as the links to peers have", "raise the MTU of these links"
		if b.opts.MTU != 0 {
			source, remediation = "as set by --mtu", "give the agent a larger one"
		}
		b.ownProblem(problem.BridgeFailed, "pods would get an MTU of %d, %s, and their addresses take %d at least; %s", conf.MTU, source, least, remediation)
		conf = b.actual.CNI
	}
	b.desired.CNI = conf
}

// chained returns the further plugins of our config. The firewall plugin is called once.
func (b *builder) chained() []Plugin {
	if !b.opts.Firewall {
		return b.host.Plugins
	}
	return slices.DeleteFunc(slices.Clone(b.host.Plugins), func(p Plugin) bool { return p.Type == FirewallPlugin })
}

// acceptCNI11 reports whether all plugins of our config accept CNI 1.1.0. If a runtime picked it
// and one of them did not, no pod could start.
func (b *builder) acceptCNI11() bool {
	names := []string{"bridge", "host-local", "portmap"}
	if b.opts.Firewall {
		names = append(names, FirewallPlugin)
	}
	for _, p := range b.chained() {
		names = append(names, p.Type)
	}
	return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(b.host.CNI11, name) })
}

// configSubnets returns the subnets of the config: our own, or in a family in which pods use a
// former one, that.
func (b *builder) configSubnets() []netip.Prefix {
	subnets := slices.DeleteFunc(slices.Clone(b.subnets), func(p netip.Prefix) bool { return hasFamily(b.former, p.Addr().Is4()) })
	subnets = append(subnets, b.former...)
	slices.SortFunc(subnets, ComparePrefix)
	return subnets
}

// formerSubnets finds our former subnets that still have pods. A new config would disconnect them
// with the next pod: the bridge plugin removes the old gateway in IPv4, and keeps it in IPv6, where
// it hides the subnet's new owner. So the old config stays, with what it needs, until these pods
// are gone. If the config was removed, the bridge's addresses show the subnet.
func (b *builder) formerSubnets() {
	if len(b.subnets) == 0 || b.host.Ports == 0 {
		return
	}
	candidates := slices.Clone(b.attached)
	for _, a := range b.actual.Addresses {
		if b.gateway(a.Prefix) {
			candidates = append(candidates, a.Prefix.Masked())
		}
	}
	for _, p := range candidates {
		leased := b.leased(p)
		if leased == 0 || slices.Contains(b.subnets, p) || slices.Contains(b.former, p) {
			continue
		}
		b.former = append(b.former, p)
		if !slices.Contains(b.own.PodCIDRs, p) { // otherwise it is refused and reported, and not another Node's
			b.ownProblem(problem.SubnetChanged, "pods still live on %s, which is no longer this node's subnet, and no other node reaches them (addresses leased: %d); drain the node, and the CNI config follows", p, leased)
		}
	}
}

func (b *builder) leased(p netip.Prefix) (n int) {
	for _, addr := range b.host.Leases {
		if p.Contains(addr) {
			n++
		}
	}
	return n
}

const (
	maxMTU  = 65535 // the largest one of a bridge or a veth device (ETH_MAX_MTU of linux/if_ether.h)
	minMTU4 = 68    // the smallest one of these devices, and of IPv4 (ETH_MIN_MTU, RFC 791)
	minMTU6 = 1280  // the smallest one of a link with IPv6 (RFC 8200, section 5)
)

// mtu returns the MTU of pods: the smallest one of the links to peers, in each family of pods, and of
// our tunnels, or else of the links of default routes. Without such a link it stays as it is; 0:
// unknown.
func (b *builder) mtu() int {
	if b.opts.MTU != 0 {
		return b.opts.MTU
	}
	links := map[string]bool{}
	for _, p := range b.subnets {
		b.linksToPeers(links, p.Addr().Is4())
	}
	mtu := b.leastMTU(links)
	for _, t := range b.desired.Tunnels {
		mtu = min(cmp.Or(mtu, t.MTU), t.MTU)
	}
	mtu = cmp.Or(mtu, b.leastMTU(b.defaultLinks()))
	if mtu == 0 && b.actual.CNI != nil {
		mtu = b.actual.CNI.MTU
	}
	return min(mtu, maxMTU)
}

// defaultLinks returns the names of the links of default routes.
func (b *builder) defaultLinks() map[string]bool {
	names := map[string]bool{}
	for _, r := range b.host.Underlay() {
		names[r.Dev] = names[r.Dev] || r.Dst.Bits() == 0
	}
	return names
}

// linksToPeers adds the links to peers in a family: the link with our InternalIP, whatever links
// peers' InternalIPs are on, because a peer may have any. If that one leads nowhere, it adds the
// links of the peers' routes.
func (b *builder) linksToPeers(links map[string]bool, is4 bool) {
	if uplink, ok := b.uplinks[is4]; ok && b.leadsSomewhere(uplink) {
		links[uplink.Name] = true
		return
	}
	for dev := range b.tallies.of(is4).devs {
		if !isTunnel(dev) {
			links[dev] = true
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
		slices.ContainsFunc(b.host.Underlay(), func(r Route) bool { return r.Dev == link.Name && r.Type == Unicast })
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
