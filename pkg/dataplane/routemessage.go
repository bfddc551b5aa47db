package dataplane

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// routeObject is RTA_NH_ID of linux/rtnetlink.h, which x/sys/unix leaves out.
const routeObject = 30

// A message is a route as rtnetlink(7) sends it.
type message struct {
	hop                     // the first, which stands for all
	others            []hop // of a multipath route
	family, kind, tos uint8
	protocol          uint8
	metric            uint32
	table             uint32
	dst, from         netip.Prefix
	src               netip.Addr
	expires           bool
	object            uint32 // the id of its next hop, where the kernel keeps that as an object of its own
}

// A hop is one of a route's next hops.
type hop struct {
	via                 netip.Addr
	oif                 int
	dead, encap, onLink bool
}

// parse parses struct rtmsg and its attributes (linux/rtnetlink.h) into the message, whose memory
// it reuses. It is not ok for broken messages, cached routes, link-local and multicast routes, and
// those of other families: a kernel that lacks a family answers a dump of it with all
// families (rtnetlink_rcv_msg of net/core/rtnetlink.c).
func (m *message) parse(b []byte) (ok bool) {
	*m = message{others: m.others[:0]}
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return false
	}
	m.family, m.tos, m.protocol, m.kind = b[0], b[3], b[5], b[7]
	m.table = uint32(b[4])
	bits, fromBits, flags := int(b[1]), int(b[2]), binary.NativeEndian.Uint32(b[8:])
	if flags&unix.RTM_F_CLONED != 0 {
		return false
	}
	dst := netip.IPv4Unspecified()
	if m.family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	m.dead, m.onLink = flags&unix.RTNH_F_DEAD != 0, flags&unix.RTNH_F_ONLINK != 0
	whole := eachAttribute(b[unix.SizeofRtMsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.RTA_TABLE:
			m.table = number(value)
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_SRC:
			from, _ := netip.AddrFromSlice(value)
			m.from = netip.PrefixFrom(from, fromBits)
		default:
			m.attribute(kind, value)
		}
	})
	m.dst = netip.PrefixFrom(dst, bits)
	return whole && m.dst.IsValid() && dst.Is6() == (m.family == unix.AF_INET6) &&
		!dst.IsLinkLocalUnicast() && !dst.IsMulticast()
}

func (m *message) attribute(kind uint16, value []byte) {
	switch kind {
	case unix.RTA_PRIORITY:
		m.metric = number(value)
	case unix.RTA_PREFSRC:
		m.src, _ = netip.AddrFromSlice(value)
	case unix.RTA_CACHEINFO:
		m.expires = len(value) >= 12 && binary.NativeEndian.Uint32(value[8:]) != 0
	case routeObject:
		m.object = number(value)
	case unix.RTA_MULTIPATH:
		m.nextHops(value)
	default:
		m.hop.attribute(kind, value)
	}
}

func (h *hop) attribute(kind uint16, value []byte) {
	switch kind {
	case unix.RTA_OIF:
		h.oif = int(number(value))
	case unix.RTA_GATEWAY:
		h.via, _ = netip.AddrFromSlice(value)
	case unix.RTA_VIA: // an IPv4 route by an IPv6 gateway: family, then address
		if len(value) > 2 {
			h.via, _ = netip.AddrFromSlice(value[2:])
		}
	case unix.RTA_ENCAP:
		h.encap = true
	}
}

// nextHops parses a list of struct rtnexthop.
func (m *message) nextHops(b []byte) {
	for first := true; len(b) >= unix.SizeofRtNexthop; first = false {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			return
		}
		h := hop{oif: int(binary.NativeEndian.Uint32(b[4:])), dead: b[2]&unix.RTNH_F_DEAD != 0, onLink: b[2]&unix.RTNH_F_ONLINK != 0}
		eachAttribute(b[unix.SizeofRtNexthop:length], h.attribute)
		m.add(h, first)
		b = b[min(len(b), (length+3)&^3):]
	}
}

func (m *message) add(h hop, first bool) {
	if first {
		m.hop = h
		return
	}
	m.others = append(m.others, h)
}

// eachAttribute calls f with each struct rtattr. It is not whole if one is broken.
func eachAttribute(b []byte, f func(kind uint16, value []byte)) (whole bool) {
	for len(b) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtAttr || length > len(b) {
			return false
		}
		f(binary.NativeEndian.Uint16(b[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:length])
		b = b[min(len(b), (length+3)&^3):]
	}
	return true
}

// attribute returns the value of the last attribute of a kind, nil if there is none.
func attribute(b []byte, kind uint16) (value []byte) {
	eachAttribute(b, func(k uint16, v []byte) {
		if k == kind {
			value = v
		}
	})
	return value
}

func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// shared reports whether the route has several next hops.
func (m *message) shared() bool { return len(m.others) > 0 }

// mine reports whether the route has our mark; ours never have a TOS or a source. An IPv6 route
// with several next hops began with ours: the kernel shows the first one's protocol for all, and
// adds at the end (rt6_fill_node, fib6_add_rt2node). An IPv4 route with several was added as a
// whole by another program.
func (m *message) mine() bool {
	r := topology.Route{Dst: m.dst, Metric: m.metric}
	return m.protocol == topology.Protocol && m.tos == 0 && !m.from.IsValid() && (!m.shared() || m.dst.Addr().Is6()) &&
		(r.ToPeer() || m.metric == topology.MetricOwn || m.metric == topology.MetricBridge)
}

// advertised reports whether the route came by router advertisement: a default route has that
// protocol, a prefix's route expires.
func (m *message) advertised() bool {
	return m.family == unix.AF_INET6 && (m.protocol == unix.RTPROT_RA || m.protocol == unix.RTPROT_KERNEL && m.expires)
}

// route returns the route by its first next hop. Ours are never Dead: a write can't change that, so
// they would differ from the desired ones for as long as the device has no carrier.
func (m *message) route(links *linkFacts) topology.Route {
	r := m.by(m.hop, links)
	r.Protocol, r.Src = m.protocol, m.src
	if m.mine() {
		r.Shared, r.Dead = m.shared(), false
	}
	return r
}

// other returns the route by another of its next hops. If the first is ours, the kernel does not
// show the protocol of the others.
func (m *message) other(h hop, links *linkFacts) topology.Route {
	r := m.by(h, links)
	if !m.mine() {
		r.Protocol, r.Src = m.protocol, m.src
	}
	return r
}

// by returns the route by a next hop. A route that leads nowhere has no device, although the kernel
// shows lo for it in IPv6.
func (m *message) by(h hop, links *linkFacts) topology.Route {
	r := topology.Route{
		Type: routeTypes[m.kind], Dst: m.dst, From: m.from, Via: h.via, Metric: m.metric, TOS: m.tos, Dead: h.dead, Encap: h.encap, OnLink: h.onLink,
	}
	if r.Type == topology.Unicast && h.oif != 0 {
		r.Dev = links.name(h.oif)
	}
	return r
}

var routeTypes = map[uint8]topology.RouteType{
	unix.RTN_UNICAST: topology.Unicast, unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast",
	unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole",
	unix.RTN_UNREACHABLE: topology.Unreachable, unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}
