package dataplane

import (
	"encoding/binary"
	"errors"
	"net/netip"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// peerAddrs returns the addresses of the device at the other end of a port, in another network
// namespace, IPv4 ones first and without link-local ones. There are none if the device has gone, or
// without CAP_NET_ADMIN over there.
func (k *Kernel) peerAddrs(port *rtnl.LinkAttrs) []netip.Addr {
	addrs, _, _ := addrsIn(k.rtnetlink, port.NetNsID, port.ParentIndex)
	return addrs
}

// addrsIn returns the addresses of a device in the network namespace of an ID, IPv4 ones first and
// without link-local ones; with index 0 those of all devices. They are not whole if one changed
// meanwhile.
func addrsIn(s *socket, namespace, index int) (addrs []netip.Addr, whole bool, err error) {
	whole = true
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		ask := request{kind: unix.RTM_GETADDR, flags: unix.NLM_F_DUMP, data: encodeAddrRequest(family, namespace, index)}
		all, failure := s.read(ask, func(kind uint16, data []byte) {
			if addr, ok := parsePeerAddr(kind, data, family, namespace, index); ok && !addr.IsLinkLocalUnicast() {
				addrs = append(addrs, addr)
			}
		})
		whole, err = whole && all, errors.Join(err, failure)
	}
	return addrs, whole, err
}

// peerName returns the name of the device at the other end of a port, "" if it is unknown. The
// request has the ID by which this network namespace refers to the other (IFLA_TARGET_NETNSID of
// linux/if_link.h).
func (k *Kernel) peerName(port *rtnl.LinkAttrs) (name string) {
	data := make([]byte, unix.SizeofIfInfomsg) // struct ifinfomsg
	binary.NativeEndian.PutUint32(data[4:], uint32(port.ParentIndex))
	data = appendNumber(data, unix.IFLA_TARGET_NETNSID, port.NetNsID)
	_, _ = k.rtnetlink.read(request{kind: unix.RTM_GETLINK, data: data}, func(_ uint16, data []byte) {
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
