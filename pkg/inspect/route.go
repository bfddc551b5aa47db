package inspect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/dataplane"
)

// Route is where the kernel sends a packet, by all tables and rules.
type Route struct {
	Dev string
	Via netip.Addr // the gateway, the zero Addr if the destination is on link
	MTU int        // that of the route, without what routers report; 0 if it sets none
}

// RouteTo returns the route of this host's own packets to an address, with its MTU, as `ip route
// get` does.
func (i *Inspector) RouteTo(to netip.Addr) (Route, error) {
	route, err := i.Lookup(to, "", netip.Addr{}, Selector{})
	if err != nil {
		return Route{}, err
	}
	if entry, err := i.handle.RouteGetWithOptions(to.AsSlice(), &rtnl.RouteGetOptions{FIBMatch: true}); err == nil {
		route.MTU = entry[0].MTU
	}
	return route, nil
}

// Lookup returns the route of a packet (RTM_GETROUTE), without its MTU: of one of this host's own,
// or, with a device and a source, of one that comes in there. The kernel accepts selectors of TCP,
// UDP and ICMP alone (rtm_getroute_parse_ip_proto of net/ipv4/ip_output.c); for others the error is
// unix.EOPNOTSUPP.
func (i *Inspector) Lookup(to netip.Addr, dev string, from netip.Addr, selector Selector) (Route, error) {
	request, err := i.routeRequest(to, dev, from, selector)
	if err != nil {
		return Route{}, err
	}
	var route Route
	index := 0
	err = i.conn.Get(unix.RTM_GETROUTE, 0, request, func(_ uint16, data []byte) {
		eachAttribute(data[min(unix.SizeofRtMsg, len(data)):], func(attrs *netlink.AttributeDecoder) {
			switch attrs.Type() {
			case unix.RTA_GATEWAY:
				route.Via, _ = netip.AddrFromSlice(attrs.Bytes())
			case unix.RTA_OIF:
				index = int(attrs.Uint32())
			}
		})
	})
	if err != nil {
		return Route{}, fmt.Errorf("looking up %s: %w", to, err)
	}
	link, err := i.handle.LinkByIndex(index)
	if err != nil {
		return Route{}, fmt.Errorf("looking up the device towards %s: %w", to, err)
	}
	route.Dev = link.Attrs().Name
	return route, nil
}

// routeRequest encodes struct rtmsg and its attributes (rtnetlink(7)).
func (i *Inspector) routeRequest(to netip.Addr, dev string, from netip.Addr, s Selector) ([]byte, error) {
	attrs := netlink.NewAttributeEncoder()
	attrs.Bytes(unix.RTA_DST, to.AsSlice())
	if from.IsValid() {
		attrs.Bytes(unix.RTA_SRC, from.AsSlice())
	}
	if dev != "" {
		link, err := i.handle.LinkByName(dev)
		if err != nil {
			return nil, fmt.Errorf("looking up %s from %s: %w", to, dev, err)
		}
		attrs.Uint32(unix.RTA_IIF, uint32(link.Attrs().Index))
	}
	if s.Protocol != 0 {
		attrs.Uint8(unix.RTA_IP_PROTO, s.Protocol)
	}
	for attribute, port := range map[uint16]uint16{unix.RTA_SPORT: s.SourcePort, unix.RTA_DPORT: s.DstPort} {
		if port != 0 {
			attrs.Bytes(attribute, binary.BigEndian.AppendUint16(nil, port))
		}
	}
	if s.Mark != 0 {
		attrs.Uint32(unix.RTA_MARK, s.Mark)
	}
	b, err := attrs.Encode()
	header := []byte{family(to.Is4()), byte(to.BitLen()), byte(from.BitLen()), s.TOS, 0, 0, 0, 0, 0, 0, 0, 0}
	return append(header, b...), err
}

func family(is4 bool) byte { return choose[byte](is4, unix.AF_INET, unix.AF_INET6) }

// A Rule is a policy rule that leads packets to a table other than local and main (ip-rule(8)).
type Rule struct {
	Priority int
	From, To netip.Prefix // the source and the destination that it selects, the zero Prefix: any
	Table    int
	Selector Selector // has a value that it selects of each other field
}

// Rules returns the rules of a family in the kernel's order, by priority.
func (i *Inspector) Rules(is4 bool) ([]Rule, error) {
	rules, err := dataplane.RetryDump(func() ([]rtnl.Rule, error) { return i.handle.RuleList(int(family(is4))) })
	if err != nil {
		return nil, fmt.Errorf("listing rules: %w", err)
	}
	var all []Rule
	for _, r := range rules {
		if r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN {
			all = append(all, Rule{max(r.Priority, 0), prefixOf(r.Src), prefixOf(r.Dst), r.Table, selectorOf(r)}) // the library has -1 for 0
		}
	}
	return all, nil
}

// maxDestinations bounds the result of Destinations.
const maxDestinations = 1024

// Destinations returns the destinations of routes in the tables of a family's rules for which
// wanted returns true, maxDestinations at most.
func (i *Inspector) Destinations(is4 bool, rules []Rule, wanted func(netip.Prefix) bool) ([]netip.Prefix, error) {
	var found []netip.Prefix
	seen := map[int]bool{unix.RT_TABLE_UNSPEC: true} // that of rules which refuse
	for _, r := range rules {
		if seen[r.Table] {
			continue
		}
		seen[r.Table] = true
		err := i.handle.RouteListFilteredIter(int(family(is4)), &rtnl.Route{Table: r.Table}, rtnl.RT_FILTER_TABLE, func(route rtnl.Route) bool {
			if p := prefixOf(route.Dst); wanted(p) {
				found = append(found, p)
			}
			return len(found) < maxDestinations
		})
		if err != nil && !errors.Is(err, rtnl.ErrDumpInterrupted) { // what was read is enough for a sample
			return nil, fmt.Errorf("listing routes of table %d: %w", r.Table, err)
		}
	}
	return found, nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr, bits)
}

// A Selector is what a rule may select packets by, besides addresses and device (ip-rule(8)). The
// zero value is any packet.
type Selector struct {
	Protocol            uint8  // the IANA number of TCP, UDP or ICMP of the packet's family
	SourcePort, DstPort uint16 // of TCP and UDP
	TOS                 uint8  // IPv4's type of service or IPv6's traffic class
	Mark                uint32
}

// masqueradeMark is set by kube-proxy, before routing, on packets that are to get the node's
// address, such as those to node ports (masqueradeBit of its configuration is 14).
const masqueradeMark = 1 << 14

func (s Selector) String() string {
	names := map[uint8]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP", unix.IPPROTO_ICMP: "ICMP", unix.IPPROTO_ICMPV6: "ICMPv6"}
	var words []string
	add := func(set bool, format string, value any) {
		if set {
			words = append(words, fmt.Sprintf(format, value))
		}
	}
	add(names[s.Protocol] != "", "%s", names[s.Protocol])
	add(s.SourcePort != 0, "from port %d", s.SourcePort)
	add(s.DstPort != 0, "to port %d", s.DstPort)
	add(s.TOS != 0, "type of service %#x", s.TOS)
	add(s.Mark != 0, "mark %#x, as kube-proxy's for masquerading", s.Mark)
	return strings.Join(words, ", ")
}

// selectorOf returns a selector of packets that a rule selects and a cluster sends. The only mark
// in it is kube-proxy's, because a packet with another mark was marked for that rule.
func selectorOf(r rtnl.Rule) Selector {
	if r.Invert {
		return Selector{}
	}
	s := Selector{Protocol: uint8(r.IPProto), TOS: uint8(r.Tos)}
	if r.Sport != nil {
		s.SourcePort = r.Sport.Start
	}
	if r.Dport != nil {
		s.DstPort = r.Dport.Start
	}
	if s.Protocol == 0 && (s.SourcePort != 0 || s.DstPort != 0) {
		s.Protocol = unix.IPPROTO_TCP
	}
	if r.Mask != nil && r.Mark != 0 && masqueradeMark&*r.Mask == r.Mark {
		s.Mark = masqueradeMark
	}
	return s
}
