package inspect

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	_, err = i.conn.Get(unix.RTM_GETROUTE, 0, request, func(_ uint16, data []byte) {
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
