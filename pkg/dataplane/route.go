package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// routeFacts is the main table: ours, sorted, and the rest.
type routeFacts struct {
	ours, foreign []topology.Route
}

// dialDumper opens a socket whose dumps the kernel filters by table; without
// that, each dump would carry the local table, and in IPv6 the cached routes.
func dialDumper() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{MessageBufferSize: messageBuffer})
	if err != nil {
		return nil, err
	}
	if err := c.SetOption(netlink.GetStrictCheck, true); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// messageBuffer is more than the kernel puts into one message (32 KiB of a dump,
// netlink_dump of net/netlink/af_netlink.c, if the reader has room for as much).
// Without a size given, each read would first ask for it and dumps come in pages.
const messageBuffer = 64 << 10

// loadRoutes reads links and routes together, for routes name links.
func (k *Kernel) loadRoutes() error {
	links, byIndex, err := k.readLinks()
	if err != nil {
		return err
	}
	routes := &routeFacts{}
	if k.routes != nil {
		routes.ours = make([]topology.Route, 0, len(k.routes.ours)+worthKeeping)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := k.dumpRoutes(family, links, byIndex, routes); err != nil {
			return fmt.Errorf("listing routes: %w", err)
		}
	}
	slices.SortFunc(routes.ours, topology.Route.Compare)
	k.rememberAdvertised(byIndex)
	links.keepRouted(byIndex, routes.foreign, k.cfg.Bridge)
	k.links, k.routes = links, routes
	return nil
}

// rememberAdvertised keeps the names of links that heard a router. One that is made
// anew has the kernel's default of accept_ra, 1, with which a host that forwards
// hears none again: what it would be known by never comes.
func (k *Kernel) rememberAdvertised(byIndex map[int]*topology.Link) {
	for _, link := range byIndex {
		if link.RouterAdvertised {
			k.advertised[link.Name] = true
		}
		link.RouterAdvertised = k.advertised[link.Name]
	}
}

func (k *Kernel) dumpRoutes(family uint8, links *linkFacts, byIndex map[int]*topology.Link, facts *routeFacts) error {
	const tries = 10
	for range tries {
		ours, foreign := facts.ours, facts.foreign
		whole, err := k.dump(family, func(m message) {
			route := m.route(links)
			if m.mine() {
				ours = append(ours, route)
			} else {
				foreign = append(foreign, route)
			}
			for _, hop := range m.others {
				foreign = append(foreign, hop.route(links))
			}
			if link := byIndex[m.oif]; link != nil && m.advertised(family) {
				link.RouterAdvertised = true
			}
		})
		if err != nil {
			return err
		}
		if whole {
			facts.ours, facts.foreign = ours, foreign
			return nil
		}
	}
	return fmt.Errorf("family %d: %w, %d times", family, rtnl.ErrDumpInterrupted, tries)
}

// dump gives each route of the main table to f. It is not whole if the table
// changed meanwhile.
func (k *Kernel) dump(family uint8, f func(message)) (whole bool, err error) {
	request := make([]byte, unix.SizeofRtMsg)
	request[0], request[4] = family, unix.RT_TABLE_MAIN
	_, err = k.dumper.Send(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump},
		Data:   request,
	})
	if err != nil {
		return false, err
	}
	whole = true
	for msg, err := range k.dumper.ReceiveIter() {
		if err != nil {
			// A table that no route was ever added to does not exist (fib_rules).
			if errors.Is(err, unix.ENOENT) {
				return true, nil
			}
			return false, err
		}
		if msg.Header.Flags&netlink.DumpInterrupted != 0 {
			whole = false
		}
		if m, ok := parseRoute(msg.Data); ok {
			f(m)
		}
	}
	return whole, nil
}

// A message is a route of the main table as rtnetlink(7) sends it.
type message struct {
	kind     uint8
	tos      uint8
	flags    uint32 // rtm_flags, or rtnh_flags of a next hop
	dst      netip.Prefix
	from     netip.Prefix
	via, src netip.Addr
	oif      int
	metric   int
	protocol int
	expires  bool
	encap    bool
	hops     int       // next hops of a multipath route
	others   []message // all but the first
}

// parseRoute reads struct rtmsg and its attributes (linux/rtnetlink.h). It is
// not ok for routes of other tables, cached ones and broken messages.
func parseRoute(b []byte) (m message, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return m, false
	}
	family, bits, fromBits, table := b[0], int(b[1]), int(b[2]), uint32(b[4])
	m.tos, m.protocol, m.kind, m.flags = b[3], int(b[5]), b[7], binary.NativeEndian.Uint32(b[8:])
	if m.flags&unix.RTM_F_CLONED != 0 {
		return m, false
	}
	dst := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for b = b[unix.SizeofRtMsg:]; len(b) >= unix.SizeofRtAttr; {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtAttr || length > len(b) {
			return m, false
		}
		value := b[unix.SizeofRtAttr:length]
		switch binary.NativeEndian.Uint16(b[2:]) {
		case unix.RTA_TABLE:
			table = number(value)
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_SRC:
			from, _ := netip.AddrFromSlice(value)
			m.from = netip.PrefixFrom(from, fromBits)
		case unix.RTA_CACHEINFO:
			m.expires = len(value) >= 12 && binary.NativeEndian.Uint32(value[8:]) != 0
		default:
			m.attribute(binary.NativeEndian.Uint16(b[2:]), value)
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	m.dst = netip.PrefixFrom(dst, bits)
	for i := range m.others {
		hop := &m.others[i]
		hop.dst, hop.from, hop.metric, hop.tos = m.dst, m.from, m.metric, m.tos
		if !m.mine() { // else whose it is the kernel does not tell
			hop.protocol = m.protocol
		}
	}
	return m, table == unix.RT_TABLE_MAIN && m.dst.IsValid() && !dst.IsLinkLocalUnicast() && !dst.IsMulticast()
}

func (m *message) attribute(kind uint16, value []byte) {
	switch kind {
	case unix.RTA_OIF:
		m.oif = int(number(value))
	case unix.RTA_PRIORITY:
		m.metric = int(number(value))
	case unix.RTA_GATEWAY:
		m.via, _ = netip.AddrFromSlice(value)
	case unix.RTA_VIA: // an IPv4 route by an IPv6 gateway: family, then address
		if len(value) > 2 {
			m.via, _ = netip.AddrFromSlice(value[2:])
		}
	case unix.RTA_PREFSRC:
		m.src, _ = netip.AddrFromSlice(value)
	case unix.RTA_ENCAP:
		m.encap = true
	case unix.RTA_MULTIPATH:
		m.nextHops(value)
	}
}

// nextHops reads the list of struct rtnexthop; the first stands for all.
func (m *message) nextHops(b []byte) {
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			return
		}
		hop := m
		if m.hops++; m.hops > 1 {
			m.others = append(m.others, message{kind: m.kind})
			hop = &m.others[len(m.others)-1]
		}
		hop.flags, hop.oif = uint32(b[2]), int(binary.NativeEndian.Uint32(b[4:]))
		hop.attributes(b[unix.SizeofRtNexthop:length])
		b = b[min(len(b), (length+3)&^3):]
	}
}

func (m *message) attributes(b []byte) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		m.attribute(binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofRtAttr:size])
		b = b[min(len(b), (size+3)&^3):]
	}
}

func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// mine tells whether the route bears our mark; we never make one with a TOS or a source. An
// IPv6 route with several next hops began with ours: the kernel tells the first
// one's protocol for all, and adds at the end (rt6_fill_node, fib6_add_rt2node). An
// IPv4 route with several was made as a whole by somebody else.
func (m message) mine() bool {
	return m.protocol == topology.Protocol && m.tos == 0 && !m.from.IsValid() && (m.hops < 2 || m.dst.Addr().Is6()) &&
		(m.metric == topology.MetricPeer || m.metric == topology.MetricOwn)
}

// advertised tells whether the route came by router advertisement: a default
// route says so, a prefix's route expires.
func (m message) advertised(family uint8) bool {
	return family == unix.AF_INET6 && (m.protocol == unix.RTPROT_RA || m.protocol == unix.RTPROT_KERNEL && m.expires)
}

// route translates; a route that leads nowhere has no device, although the
// kernel names lo for it in IPv6.
func (m message) route(links *linkFacts) topology.Route {
	r := topology.Route{
		Type: routeTypes[m.kind], Dst: m.dst, Via: m.via, Src: m.src,
		Protocol: m.protocol, Metric: m.metric, TOS: int(m.tos), Shared: m.hops > 1 && m.mine(),
		From: m.from, Encap: m.encap, Dead: m.flags&unix.RTNH_F_DEAD != 0 && !m.mine(),
	}
	if r.Type == topology.Unicast && m.oif != 0 {
		r.Dev = links.name(m.oif)
	}
	return r
}

var routeTypes = map[uint8]topology.RouteType{
	unix.RTN_UNICAST:     topology.Unicast,
	unix.RTN_LOCAL:       "local",
	unix.RTN_BROADCAST:   "broadcast",
	unix.RTN_ANYCAST:     "anycast",
	unix.RTN_MULTICAST:   "multicast",
	unix.RTN_BLACKHOLE:   "blackhole",
	unix.RTN_UNREACHABLE: topology.Unreachable,
	unix.RTN_PROHIBIT:    "prohibit",
	unix.RTN_THROW:       "throw",
}

// holds tells whether a notification says what we know already, as those of our
// own changes do. It speaks of the final state of its key, and notifications of
// a key come in order: if the last one agrees, what we know is true.
func (k *Kernel) holds(m message, deleted bool) bool {
	r := m.route(k.links)
	i, found := slices.BinarySearchFunc(k.routes.ours, r, topology.Route.Compare)
	if deleted {
		return !found
	}
	return found && k.routes.ours[i] == r
}
