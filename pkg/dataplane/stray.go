package dataplane

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	for _, port := range attached {
		if len(claims) == 0 {
			break
		}
		taken := k.peerAddrs(port)
		claims = slices.DeleteFunc(claims, func(c claim) bool { return share(c.addrs, taken) })
	}
	return claims
}

// settle keeps the claims that take precedence, and which of them conflict.
func (f *linkFacts) settle(claims []claim) {
	for _, c := range claims {
		conflict, lost := 0, false
		for _, other := range claims {
			switch {
			case c.index == other.index || !share(c.addrs, other.addrs):
			case f.seen[c.index] == f.seen[other.index]:
				conflict = other.index
			case f.seen[other.index]:
				lost = true
			}
		}
		if !lost {
			f.pods[c.index] = c.addrs[0]
		}
		if !lost && conflict != 0 {
			f.conflicts[c.index] = conflict
		}
	}
}

func share(a, b []netip.Addr) bool {
	return slices.ContainsFunc(a, func(addr netip.Addr) bool { return slices.Contains(b, addr) })
}

// peerAddrs returns the addresses of the device at the other end of a port, in another network
// namespace, IPv4 ones first and without link-local ones. There are none if the device has gone, or
// without CAP_NET_ADMIN over there.
func (k *Kernel) peerAddrs(port *rtnl.LinkAttrs) []netip.Addr {
	addrs, _ := addrsIn(k.rtnetlink, port.NetNsID, port.ParentIndex)
	return addrs
}

// addrsIn returns the addresses of a device in the network namespace of an ID, IPv4 ones first and
// without link-local ones; with index 0 those of all devices.
func addrsIn(s *socket, namespace, index int) (addrs []netip.Addr, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		failure := s.dump(unix.RTM_GETADDR, encodeAddrRequest(family, namespace, index), func(kind uint16, data []byte) {
			if addr, ok := parsePeerAddr(kind, data, family, namespace, index); ok && !addr.IsLinkLocalUnicast() {
				addrs = append(addrs, addr)
			}
		})
		err = errors.Join(err, failure)
	}
	return addrs, err
}

// peerName returns the name of the device at the other end of a port, "" if it is unknown. The
// request has the ID by which this network namespace refers to the other (IFLA_TARGET_NETNSID of
// linux/if_link.h).
func (k *Kernel) peerName(port *rtnl.LinkAttrs) (name string) {
	data := make([]byte, unix.SizeofIfInfomsg) // struct ifinfomsg
	binary.NativeEndian.PutUint32(data[4:], uint32(port.ParentIndex))
	data = appendNumber(data, unix.IFLA_TARGET_NETNSID, port.NetNsID)
	_ = k.rtnetlink.read(request{kind: unix.RTM_GETLINK, data: data}, func(_ uint16, data []byte) {
		if index, id, _ := parseLink(data); index == port.ParentIndex {
			name = id.name
		}
	})
	return name
}

// encodeAddrRequest returns struct ifaddrmsg (rtnetlink(7)) with the ID by which this network
// namespace refers to another (IFA_TARGET_NETNSID of linux/if_addr.h, Linux 4.20).
func encodeAddrRequest(family uint8, namespace, index int) []byte {
	b := []byte{family, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return appendNumber(b, unix.IFA_TARGET_NETNSID, namespace)
}

// parsePeerAddr returns an address of the device, or with index 0 of any. A kernel without that
// attribute answers for its own namespace, without the attribute.
func parsePeerAddr(kind uint16, b []byte, family uint8, namespace, index int) (addr netip.Addr, ok bool) {
	if kind != unix.RTM_NEWADDR || len(b) < unix.SizeofIfAddrmsg || b[0] != family || index != 0 && int(binary.NativeEndian.Uint32(b[4:])) != index {
		return netip.Addr{}, false
	}
	local := false
	whole := eachAttribute(b[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.IFA_TARGET_NETNSID:
			ok = int(int32(number(value))) == namespace
		case unix.IFA_LOCAL:
			addr, _ = netip.AddrFromSlice(value)
			local = true
		case unix.IFA_ADDRESS: // the other end's, where a link is point-to-point
			if !local {
				addr, _ = netip.AddrFromSlice(value)
			}
		}
	})
	return addr, ok && whole
}
