package topology

import (
	"net/netip"
	"slices"
)

// cni describes our CNI config. It makes kubelet say Ready, so it changes only
// while nothing is wrong with this node, and never goes away: while it is
// missing, deleted pods stay Terminating.
func (b *builder) cni() {
	if b.opts.Router || !b.ownReady() || b.inhabited() {
		b.desired.CNI = b.actual.CNI
		return
	}
	mtu := b.opts.MTU
	for _, link := range b.uplinks {
		if b.opts.MTU == 0 && (mtu == 0 || link.MTU < mtu) {
			mtu = link.MTU
		}
	}
	b.desired.CNI = &CNI{Bridge: b.opts.Bridge, MTU: mtu, Subnets: b.subnets, IPAMDir: b.opts.ipamDir()}
}

// rivalConfigs reports other CNI configs by which the runtime attaches pods instead
// of ours, which is written all the same: whoever moves from one network to another
// has both for a while.
func (b *builder) rivalConfigs() {
	if b.opts.Router {
		return
	}
	for _, name := range b.host.ConfigsBefore {
		b.ownProblem(CNIConflict, "the container runtime takes %s before our %s, so new pods do not get addresses of this node's subnet; remove that file if its network is not wanted", name, Conflist)
	}
}

// inhabited tells whether pods live on a subnet that was ours and is not any
// more. With a new config the next pod would cut them off: the plugin takes the
// old gateway from the bridge in IPv4, and leaves it in IPv6, where it hides the
// subnet's new owner. So the old config stays, and what it needs, until they are
// gone.
func (b *builder) inhabited() bool {
	if b.actual.CNI == nil || b.host.Ports == 0 {
		return false
	}
	for _, p := range b.actual.CNI.Subnets {
		if !slices.Contains(b.subnets, p) && slices.ContainsFunc(b.host.Leases, p.Contains) {
			b.former = append(b.former, p)
		}
	}
	for _, p := range b.former {
		pods := 0
		for _, addr := range b.host.Leases {
			if p.Contains(addr) {
				pods++
			}
		}
		b.ownProblem(SubnetChanged, "pods still live on %s, which is this node's subnet no more, and no other node reaches them (%d addresses are leased); drain the node, and the CNI config follows", p, pods)
	}
	return len(b.former) > 0
}

// addresses describes what the bridge bears, once the plugin has made it: the
// gateway of each subnet of the config. Gateways of former subnets go; whatever
// else somebody gave the bridge is theirs.
func (b *builder) addresses() {
	b.desired.Addresses = b.actual.Addresses
	conf := b.desired.CNI
	if conf == nil || len(conf.Subnets) == 0 || !slices.ContainsFunc(b.host.Links, func(l Link) bool { return l.Name == b.opts.Bridge }) {
		return
	}
	addrs := make([]Address, 0, len(conf.Subnets)+len(b.actual.Addresses))
	for _, p := range conf.Subnets {
		addrs = append(addrs, Address{conf.Bridge, netip.PrefixFrom(Gateway(p), p.Bits())})
	}
	for _, a := range b.actual.Addresses {
		if a.Dev == conf.Bridge && !b.gateway(a.Prefix) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, Address.Compare)
	b.desired.Addresses = addrs
}

// gateway tells whether an address is of the shape that the stock plugin gives a
// bridge for a pod subnet of this cluster.
func (b *builder) gateway(p netip.Prefix) bool {
	ranges := b.opts.ClusterCIDRs
	return p.Addr() == Gateway(p.Masked()) && p.Bits() == *b.judge.sizes.of(p.Addr().Is4()) &&
		(len(ranges) == 0 || within(ranges, p.Masked()))
}

// Gateway returns the address that host-local keeps for the gateway of a subnet:
// the first.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }
