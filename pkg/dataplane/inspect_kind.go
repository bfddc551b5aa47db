package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A PacketKind is what a rule may select a packet by, beside its addresses and its device (ip-rule(8)). The
// zero value is any packet.
type PacketKind struct {
	// Protocol is TCP, UDP or ICMP of the packet's family (IANA's number); ports go with the first two.
	Protocol            uint8
	SourcePort, DstPort uint16
	// TOS is IPv4's type of service or IPv6's traffic class.
	TOS  uint8
	Mark uint32
}

// masqueradeMark is what kube-proxy puts on packets that are to get the node's address, such as
// those to node ports, before the kernel looks for their way (masqueradeBit of its configuration is 14).
const masqueradeMark = 1 << 14

func (k PacketKind) String() string {
	var words []string
	names := map[uint8]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP", unix.IPPROTO_ICMP: "ICMP", unix.IPPROTO_ICMPV6: "ICMPv6"}
	if name := names[k.Protocol]; name != "" {
		words = append(words, name)
	}
	if k.SourcePort != 0 {
		words = append(words, fmt.Sprintf("from port %d", k.SourcePort))
	}
	if k.DstPort != 0 {
		words = append(words, fmt.Sprintf("to port %d", k.DstPort))
	}
	if k.TOS != 0 {
		words = append(words, fmt.Sprintf("type of service %#x", k.TOS))
	}
	if k.Mark != 0 {
		words = append(words, fmt.Sprintf("mark %#x, as kube-proxy's for masquerading", k.Mark))
	}
	return strings.Join(words, ", ")
}

// selectedBy returns a kind of packet that a rule selects and a cluster sends. Of marks there is only
// kube-proxy's: what else bears one was marked for that rule.
func selectedBy(r rtnl.Rule) PacketKind {
	if r.Invert {
		return PacketKind{}
	}
	k := PacketKind{Protocol: uint8(r.IPProto), TOS: uint8(r.Tos)}
	if r.Sport != nil {
		k.SourcePort = r.Sport.Start
	}
	if r.Dport != nil {
		k.DstPort = r.Dport.Start
	}
	if k.Protocol == 0 && (k.SourcePort != 0 || k.DstPort != 0) {
		k.Protocol = unix.IPPROTO_TCP
	}
	if r.Mask != nil && r.Mark != 0 && masqueradeMark&*r.Mask == r.Mark {
		k.Mark = masqueradeMark
	}
	return k
}

// LookupKind is Lookup for one kind of packet. The kernel knows TCP, UDP and ICMP alone here
// (rtm_getroute_parse_ip_proto of net/ipv4/ip_output.c); of others the error is unix.EOPNOTSUPP.
func (i *Inspector) LookupKind(to netip.Addr, dev string, from netip.Addr, kind PacketKind) (via netip.Addr, out string, err error) {
	if kind == (PacketKind{}) {
		return i.Lookup(to, dev, from)
	}
	ask, err := i.kindRequest(to, dev, from, kind)
	if err != nil {
		return netip.Addr{}, "", err
	}
	index := 0
	_, err = i.rtnetlink.read(request{kind: unix.RTM_GETROUTE, data: ask}, func(_ uint16, data []byte) {
		eachAttribute(data[min(unix.SizeofRtMsg, len(data)):], func(kind uint16, value []byte) {
			switch kind {
			case unix.RTA_GATEWAY:
				via, _ = netip.AddrFromSlice(value)
			case unix.RTA_OIF:
				index = int(number(value))
			}
		})
	})
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("looking up %s: %w", to, err)
	}
	link, err := i.handle.LinkByIndex(index)
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("looking up the device towards %s: %w", to, err)
	}
	return via, link.Attrs().Name, nil
}

func (i *Inspector) kindRequest(to netip.Addr, dev string, from netip.Addr, kind PacketKind) ([]byte, error) {
	family := byte(unix.AF_INET)
	if to.Is6() {
		family = unix.AF_INET6
	}
	b := []byte{family, byte(to.BitLen()), byte(from.BitLen()), kind.TOS, 0, 0, 0, 0, 0, 0, 0, 0}
	b = appendAttribute(b, unix.RTA_DST, to.AsSlice())
	if from.IsValid() {
		b = appendAttribute(b, unix.RTA_SRC, from.AsSlice())
	}
	if dev != "" {
		link, err := i.handle.LinkByName(dev)
		if err != nil {
			return nil, fmt.Errorf("looking up %s from %s: %w", to, dev, err)
		}
		b = appendAttribute(b, unix.RTA_IIF, binary.NativeEndian.AppendUint32(nil, uint32(link.Attrs().Index)))
	}
	if kind.Protocol != 0 {
		b = append(appendAttribute(b, unix.RTA_IP_PROTO, []byte{kind.Protocol}), 0, 0, 0)
	}
	for attribute, port := range map[uint16]uint16{unix.RTA_SPORT: kind.SourcePort, unix.RTA_DPORT: kind.DstPort} {
		if port != 0 {
			b = append(appendAttribute(b, attribute, binary.BigEndian.AppendUint16(nil, port)), 0, 0)
		}
	}
	if kind.Mark != 0 {
		b = appendAttribute(b, unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, kind.Mark))
	}
	return b, nil
}

// Parts returns the destinations that are wanted of the routes in the tables of a family's rules, maxParts
// at most.
func (i *Inspector) Parts(is4 bool, rules []Rule, wanted func(netip.Prefix) bool) ([]netip.Prefix, error) {
	var parts []netip.Prefix
	seen := map[int]bool{unix.RT_TABLE_UNSPEC: true} // that of rules which refuse
	for _, r := range rules {
		if seen[r.Table] {
			continue
		}
		seen[r.Table] = true
		err := i.handle.RouteListFilteredIter(ruleFamily(is4), &rtnl.Route{Table: r.Table}, rtnl.RT_FILTER_TABLE, func(route rtnl.Route) bool {
			if p := rulePrefix(route.Dst); wanted(p) {
				parts = append(parts, p)
			}
			return len(parts) < maxParts
		})
		if err != nil && !errors.Is(err, rtnl.ErrDumpInterrupted) { // what was read is enough for a sample
			return nil, fmt.Errorf("listing routes of table %d: %w", r.Table, err)
		}
	}
	return parts, nil
}

const maxParts = 1024
