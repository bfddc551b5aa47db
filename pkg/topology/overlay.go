package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

func isTunnel(dev string) bool { return dev == Tunnel4 || dev == Tunnel6 }

// findTunnels decides which tunnels this host has: one for each family of its pod subnets, also
// while all peers are on link, because a peer with another setting may send by it. One that is
// there stays as it is while our own subnets are unknown, and if this host could not have it any
// more.
func (b *builder) findTunnels() {
	if !b.opts.Encapsulates() || b.opts.Router {
		return
	}
	if len(b.subnets) == 0 {
		for i := range b.actual.Tunnels {
			t := b.actual.Tunnels[i]
			*b.resolver.tunnels.of(t.Local.Is4()) = &t
			b.desired.Tunnels = append(b.desired.Tunnels, t)
		}
		return
	}
	b.sharedPorts()
	for _, p := range b.subnets {
		is4 := p.Addr().Is4()
		t, why := b.tunnel(p)
		have, there := b.existingTunnel(is4)
		if why == "" && !there && b.host.TableUnread != "" {
			why = "the nftables table that filters it can't be read"
		}
		switch {
		case why != "" && !there:
			*b.resolver.noTunnel.of(is4) = why
			continue
		case why != "":
			t, t.Up = have, true
		}
		*b.resolver.tunnels.of(is4) = &t
		b.desired.Tunnels = append(b.desired.Tunnels, t)
	}
}

// existingTunnel returns the tunnel of a family that this host has, if it has its name.
func (b *builder) existingTunnel(is4 bool) (have Tunnel, there bool) {
	i := slices.IndexFunc(b.actual.Tunnels, func(t Tunnel) bool { return t.Name == tunnelName(is4) })
	if i < 0 {
		return Tunnel{}, false
	}
	return b.actual.Tunnels[i], true
}

// tunnel returns the tunnel of a family of ours, or why there is none, which is reported.
func (b *builder) tunnel(subnet netip.Prefix) (t Tunnel, why string) {
	is4 := subnet.Addr().Is4()
	local, link := b.tunnelEnd(is4)
	if !local.IsValid() { // reported by findUplink
		return t, fmt.Sprintf("no link of this host has an %s InternalIP of its Node", familyName(is4))
	}
	t = Tunnel{Name: tunnelName(is4), VNI: b.opts.VNI, Port: b.opts.VXLANPort, Local: local, MAC: TunnelMAC(subnet), MTU: b.tunnelMTU(link, is4), Up: true}
	least := choose(is4, minMTU4, minMTU6)
	switch taken := slices.IndexFunc(b.host.Links, func(l Link) bool { return l.Name == t.Name }); {
	case taken >= 0:
		why = fmt.Sprintf("the device %s is not ours (its kind is %s, and it lacks the alias %q); rename or delete it", t.Name, b.host.Links[taken].Kind, TunnelAlias)
	case t.MTU < least:
		why = fmt.Sprintf("the uplink's MTU of %d leaves %d for packets in %s, and %s takes %d at least; raise it", t.MTU+tunnelOverhead(is4), t.MTU, t.Name, familyName(is4), least)
	default:
		if b.opts.MTU != 0 { // the path may take less than the links
			t.MTU = min(t.MTU, max(b.opts.MTU, least))
		}
		return t, ""
	}
	harm := "peers are not reached by a tunnel"
	if _, there := b.existingTunnel(is4); there {
		harm = "large packets to peers are lost in the tunnel, which stays as it is"
	}
	b.ownProblem(problem.TunnelFailed, "%s: %s", harm, why)
	return t, why
}

// tunnelEnd returns our InternalIP that is the source of a tunnel's packets, and its link. It stays
// while it is one, because peers accept the packets of those that the Node has, and may know a new
// one later.
func (b *builder) tunnelEnd(is4 bool) (addr netip.Addr, on Link) {
	for _, own := range b.ownAddrs {
		link, as := b.host.linkWith(own)
		if own.Is4() != is4 || !as.IsValid() {
			continue
		}
		used := slices.ContainsFunc(b.actual.Tunnels, func(t Tunnel) bool { return t.Local == own })
		if used || !addr.IsValid() {
			addr, on = own, link
		}
	}
	return addr, on
}

// tunnelMTU returns what is left of the MTU of the links by which packets of the tunnel leave.
// While they are unknown, it stays as it is, or is that of Ethernet.
func (b *builder) tunnelMTU(link Link, is4 bool) int {
	added, before := tunnelOverhead(is4), 1500
	if b.leadsSomewhere(link) {
		return min(link.MTU, maxMTU) - added
	}
	if t, there := b.existingTunnel(is4); there {
		before = t.MTU + added
	}
	mtu := cmp.Or(b.leastMTU(b.linksToNodes(is4)), b.leastMTU(b.defaultLinks()), before)
	return min(mtu, maxMTU) - added
}

// linksToNodes returns the names of the links by which packets to peers' InternalIPs leave.
func (b *builder) linksToNodes(is4 bool) map[string]bool {
	b.needsAll = true
	names := map[string]bool{}
	for _, n := range b.peers {
		for _, addr := range n.Addrs {
			if by := b.resolver.index.lookup(addr); addr.Is4() == is4 && b.resolver.excluded(addr) == "" && b.resolver.leaves(by) {
				names[by.Dev] = true
			}
		}
	}
	return names
}

// sharedPorts reports VXLAN devices of other programs on our UDP port.
func (b *builder) sharedPorts() {
	for _, link := range b.host.Links {
		if link.VXLANPort == b.opts.VXLANPort && link.VXLANPort != 0 {
			b.warn(problem.TunnelConflict, "%s, which is not ours, also receives on UDP port %d, with VNI %d (ours is %d); give all nodes' agents another port (--vxlan-port), or remove the device if its network is no longer used", link.Name, link.VXLANPort, link.VNI, b.opts.VNI)
		}
	}
}

// tunnelSource returns the address of the tunnel of a family, which is the source of this node's
// own packets. While our own subnets are unknown, it is the one that is there.
func (b *builder) tunnelSource(is4 bool) netip.Addr {
	if p := firstOf(b.subnets, is4); p.IsValid() {
		return TunnelAddr(p)
	}
	for _, a := range b.actual.Addresses {
		if a.Dev == tunnelName(is4) && len(b.subnets) == 0 {
			return a.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

// tunnelAddresses puts the addresses of the tunnels in the place of those that are there.
func (b *builder) tunnelAddresses() {
	addrs := slices.DeleteFunc(slices.Clone(b.desired.Addresses), func(a Address) bool { return isTunnel(a.Dev) })
	for _, t := range b.desired.Tunnels {
		if addr := b.tunnelSource(t.Local.Is4()); addr.IsValid() {
			addrs = append(addrs, Address{t.Name, single(addr)})
		}
	}
	slices.SortFunc(addrs, Address.Compare)
	b.desired.Addresses = addrs
}

// separateMACs has one Node of several with the same MAC address of their tunnel keep it, as in a
// dispute about a subnet, because a kubelet may have searched for such a subnet. IPv4 subnets have
// none in common.
func (b *builder) separateMACs() {
	holders := map[MAC]*claim{}
	for _, c := range b.claims {
		if c.path != PathTunnel || c.subnet.Addr().Is4() {
			continue
		}
		mac := TunnelMAC(c.subnet)
		other := holders[mac]
		if other == nil && mac != b.ownMAC() {
			holders[mac] = c
			continue
		}
		if other != nil && cmp.Or(cmp.Compare(b.precedence(other), b.precedence(c)), c.node.compareAge(other.node)) < 0 {
			c, other = other, c
			holders[mac] = other
		}
		b.shareMAC(c, other, mac)
	}
}

// ownMAC is the MAC address of our IPv6 tunnel.
func (b *builder) ownMAC() (mac MAC) {
	if t := *b.resolver.tunnels.of(false); t != nil {
		mac = t.MAC
	}
	return mac
}

// shareMAC reports two claims with one MAC address, of which the second one keeps it; nil: ours.
func (b *builder) shareMAC(loser, keeper *claim, mac MAC) {
	owner := b.opts.NodeName
	if keeper != nil {
		owner = keeper.node.Name
		b.report(keeper.problem(problem.MACShared, "the MAC address of its tunnel, %s, is also that of node %s, whose pods are not reached by a tunnel; give one of them another podCIDR", mac, loser.node.Name))
	}
	why := loser.problem(problem.MACShared, "the MAC address of its tunnel, %s, is also that of node %s, so its pods are not reached; give one of them another podCIDR", mac, owner)
	loser.reach = reach{addr: loser.addr, why: &why}
}

// tunnelPeers computes what the tunnels have for each peer.
func (b *builder) tunnelPeers() {
	for i, c := range b.claims {
		if c.path != PathTunnel {
			continue
		}
		mac, left := TunnelMAC(c.subnet), len(b.claims)-i
		b.desired.Neighbors = append(slices.Grow(b.desired.Neighbors, left), Neighbor{c.dev, c.via, mac})
		b.desired.FDB = append(slices.Grow(b.desired.FDB, left), FDBEntry{c.dev, mac, c.addr})
	}
	slices.SortFunc(b.desired.Neighbors, Neighbor.Compare)
	slices.SortFunc(b.desired.FDB, FDBEntry.Compare)
}

// endpoints returns the addresses from which tunnels accept packets: the InternalIPs of peers, in
// the families of our tunnels, sorted.
func (b *builder) endpoints() []netip.Addr {
	all := make([]netip.Addr, 0, len(b.claims))
	for _, c := range b.claims {
		is4 := c.subnet.Addr().Is4()
		if *b.resolver.tunnels.of(is4) == nil {
			continue
		}
		for _, addr := range c.node.Addrs {
			if _, ours := b.resolver.local[addr]; addr.Is4() == is4 && !ours && b.resolver.excluded(addr) == "" && !b.podSubnet(addr).IsValid() {
				all = append(all, addr)
			}
		}
	}
	sortAddrs(all)
	return slices.Compact(all)
}

// looseFilters has the uplinks and tunnels, if there are several, accept packets whose source is
// reached by another one (rp_filter of ip-sysctl.rst, of IPv4 alone): a peer with another setting,
// or one that has lost a link, answers by the other way.
func (b *builder) looseFilters(is4 bool) {
	devs := b.ownLinks()
	if *b.resolver.tunnels.of(true) != nil {
		devs[Tunnel4] = true
	}
	for dev := range b.tallies.v4.devs {
		devs[dev] = true
	}
	if !is4 || len(devs) < 2 {
		return
	}
	all := b.actual.Sysctls[ConfSysctl(4, "all", "rp_filter")]
	for dev := range devs {
		path := ConfSysctl(4, dev, "rp_filter")
		if own, ok := b.actual.Sysctls[path]; ok && (own == "1" || own == "0" && all == "1" || own == "2") {
			b.desired.Sysctls[path] = "2"
		}
	}
}
