package dataplane

import (
	"net"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A claim is a port that is down or not in the bridge, with a pod's addresses at its other end.
type claim struct {
	index int
	addrs []netip.Addr
}

// findPods finds the ports of pods that are down or not in the bridge. Such a port has no mark of
// ours. It is a pod's if the device at the other end, in another network namespace, has the name
// and exactly the addresses that host-local leased to one container of our network. That holds
// after a restart of the agent too.
//
// It is not proof: a container of another network with CAP_NET_ADMIN can take a pod's name and
// addresses. So a port that is in the bridge and up takes precedence over all that claim its
// address, then one that was seen in the bridge. All others conflict with each other.
func (k *Kernel) findPods(links []rtnl.Link, facts *linkFacts) {
	bridge, there := facts.byName[facts.bridge(k.cfg.Bridge)]
	var attached, others []*rtnl.LinkAttrs
	for _, l := range links {
		switch a := l.Attrs(); {
		case a.NetNsID < 0 || facts.kinds[a.Name] != topology.KindVeth:
		case there && a.MasterIndex == bridge && a.Flags&net.FlagUp != 0:
			attached = append(attached, a)
		default:
			others = append(others, a)
		}
	}
	if len(others) == 0 {
		return
	}
	leases := k.cfg.CNI.Leases()
	if len(leases) == 0 {
		return
	}
	var claims []claim
	for _, a := range others {
		if addrs := k.leasedAddrs(a, leases); len(addrs) > 0 {
			claims = append(claims, claim{a.Index, addrs})
		}
	}
	facts.settle(k.unattached(claims, attached))
}

// leasedAddrs returns the addresses of the device at the other end if its name and its addresses
// are those of one lease holder.
func (k *Kernel) leasedAddrs(port *rtnl.LinkAttrs, leases []netip.Addr) []netip.Addr {
	addrs := k.peerAddrs(port)
	notLeased := func(a netip.Addr) bool { return !slices.Contains(leases, a) }
	if len(addrs) == 0 || slices.ContainsFunc(addrs, notLeased) {
		return nil
	}
	first, ok := k.cfg.CNI.Holder(addrs[0])
	heldByAnother := func(a netip.Addr) bool {
		h, ok := k.cfg.CNI.Holder(a)
		return !ok || h != first
	}
	if !ok || slices.ContainsFunc(addrs[1:], heldByAnother) || k.peerName(port) != first.Device {
		return nil
	}
	return addrs
}

// unattached leaves out claims to the addresses behind ports that serve a pod.
func (k *Kernel) unattached(claims []claim, attached []*rtnl.LinkAttrs) []claim {
	if len(claims) == 0 {
		return nil
	}
	taken := map[netip.Addr]bool{}
	for _, port := range attached {
		for _, addr := range k.peerAddrs(port) {
			taken[addr] = true
		}
	}
	return slices.DeleteFunc(claims, func(c claim) bool {
		return slices.ContainsFunc(c.addrs, func(a netip.Addr) bool { return taken[a] })
	})
}

// settle keeps the claims that take precedence, and which of them conflict.
func (f *linkFacts) settle(claims []claim) {
	for _, c := range claims {
		rival, lost := 0, false
		for _, other := range claims {
			if c.index == other.index || !slices.ContainsFunc(c.addrs, func(a netip.Addr) bool { return slices.Contains(other.addrs, a) }) {
				continue
			}
			switch {
			case f.seen[c.index] == f.seen[other.index]:
				rival = other.index
			case f.seen[other.index]:
				lost = true
			}
		}
		if lost {
			continue
		}
		f.pods[c.index] = c.addrs[0]
		if rival != 0 {
			f.conflicts[c.index] = rival
		}
	}
}
