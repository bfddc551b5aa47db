package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// routeHeader makes struct rtmsg of the main table, with attributes after it (rtnetlink(7)).
func routeHeader(family, bits, protocol, kind byte, attributes ...[]byte) []byte {
	b := []byte{family, bits, 0, 0, unix.RT_TABLE_MAIN, protocol, unix.RT_SCOPE_UNIVERSE, kind, 0, 0, 0, 0}
	return slices.Concat(append([][]byte{b}, attributes...)...)
}

// unicast4 and unicast6 make routes of protocol 4.
func unicast4(bits byte, attributes ...[]byte) []byte {
	return routeHeader(unix.AF_INET, bits, 4, unix.RTN_UNICAST, attributes...)
}

func unicast6(bits byte, attributes ...[]byte) []byte {
	return routeHeader(unix.AF_INET6, bits, 4, unix.RTN_UNICAST, attributes...)
}

// changedAt sets one byte of a message.
func changedAt(b []byte, at int, value byte) []byte {
	b = slices.Clone(b)
	b[at] = value
	return b
}

// addressAttribute has an address as its value; numberAttribute a 32-bit number.
func addressAttribute(kind uint16, addr string) []byte {
	return appendAttribute(nil, kind, netip.MustParseAddr(addr).AsSlice())
}

func numberAttribute(kind uint16, n uint32) []byte {
	return appendAttribute(nil, kind, binary.NativeEndian.AppendUint32(nil, n))
}

// nextHop makes struct rtnexthop, padded, with attributes.
func nextHop(flags byte, oif uint32, attributes ...[]byte) []byte {
	rest := slices.Concat(attributes...)
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtNexthop+len(rest)))
	b = binary.NativeEndian.AppendUint32(append(b, flags, 0), oif)
	b = append(b, rest...)
	return append(b, make([]byte, -len(b)&3)...)
}

// multipath is a list of next hops; the kernel marks it as nested.
func multipath(hops ...[]byte) []byte {
	return appendAttribute(nil, unix.RTA_MULTIPATH|unix.NLA_F_NESTED, slices.Concat(hops...))
}

// expiry makes as much of struct rta_cacheinfo as goes to its third number, the time left.
func expiry(n uint32, size int) []byte {
	b := binary.NativeEndian.AppendUint32(make([]byte, 8), n)
	return appendAttribute(nil, unix.RTA_CACHEINFO, append(b, make([]byte, 20)...)[:size])
}

// testLinks are lo, eth0 and eth1.
func testLinks() *linkFacts {
	links := newLinkFacts(3)
	for i, name := range []string{"lo", "eth0", "eth1"} {
		links.note(i+1, linkIdent{name: name}, false)
	}
	return links
}

// text writes a message's routes as ip-route(8) does, and after each what that does not show.
func (m *message) text(links *linkFacts) string {
	r := m.route(links)
	all := []string{r.String()}
	for mark, is := range map[string]bool{" dead": r.Dead, " encap": r.Encap, " shared": r.Shared, " mine": m.mine(), " advertised": m.advertised()} {
		if is {
			all = append(all, mark)
		}
	}
	slices.Sort(all[1:])
	text := strings.Join(all, "")
	for _, h := range m.others {
		text += "; " + m.other(h, links).String()
		if h.dead {
			text += " dead"
		}
		if h.encap {
			text += " encap"
		}
	}
	return text
}

// A messageCase is a message and its text; "" if it is not a route.
type messageCase struct {
	name, want string
	bytes      []byte
}

// checkMessages parses messages into the same memory, as a dump does.
func checkMessages(t *testing.T, cases []messageCase) {
	t.Helper()
	links := testLinks()
	var m message
	for _, c := range cases {
		got := ""
		if m.parse(c.bytes) {
			got = m.text(links)
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// Attributes that several messages have.
var (
	dst4, dst6         = addressAttribute(unix.RTA_DST, "10.1.0.0"), addressAttribute(unix.RTA_DST, "fd01::")
	byEth0, byEth1     = numberAttribute(unix.RTA_OIF, 2), numberAttribute(unix.RTA_OIF, 3)
	gateway4, gateway6 = addressAttribute(unix.RTA_GATEWAY, "192.168.1.1"), addressAttribute(unix.RTA_GATEWAY, "fd00::1")
)

// marked makes a route of our protocol.
func marked(family, bits byte, metric uint32, attributes ...[]byte) []byte {
	return routeHeader(family, bits, 112, unix.RTN_UNICAST, append(attributes, numberAttribute(unix.RTA_PRIORITY, metric))...)
}

// Of a message each attribute is what rtnetlink(7) has it mean.
func TestRouteMessages(t *testing.T) {
	encap := appendAttribute(nil, unix.RTA_ENCAP, []byte{0})
	src := addressAttribute(unix.RTA_PREFSRC, "192.168.1.11")
	checkMessages(t, []messageCase{
		{"all there is to an IPv4 default", "default proto 4", unicast4(0)},
		{"IPv6 default", "default via fd00::1 dev eth0 proto 4", unicast6(0, byEth0, gateway6)},
		{"all attributes", "10.1.0.0/16 via 192.168.1.1 dev eth0 proto 4 src 192.168.1.11 metric 77", unicast4(16, dst4, byEth0, gateway4, src, numberAttribute(unix.RTA_PRIORITY, 77))},
		{"nothing of the one before", "10.1.0.0/16 proto 4", unicast4(16, dst4)},
		{"IPv6 gateway of IPv4", "10.1.0.0/16 via inet6 fd00::1 dev eth1 proto 4", unicast4(16, dst4, byEth1, appendAttribute(nil, unix.RTA_VIA, append([]byte{unix.AF_INET6, 0}, netip.MustParseAddr("fd00::1").AsSlice()...)))},
		{"type of service", "10.1.0.0/16 tos 0x8 proto 4", changedAt(unicast4(16, dst4), 3, 8)},
		{"source", "fd01::/64 from fd02::/32 proto 4", changedAt(unicast6(64, dst6, addressAttribute(unix.RTA_SRC, "fd02::")), 2, 32)},
		{"no carrier", "10.1.0.0/16 proto 4 dead", changedAt(unicast4(16, dst4), 8, unix.RTNH_F_DEAD)},
		{"on link", "10.1.0.0/16 proto 4 onlink", changedAt(unicast4(16, dst4), 8, unix.RTNH_F_ONLINK)},
		{"encapsulation", "10.1.0.0/16 dev eth0 proto 4 encap", unicast4(16, dst4, byEth0, encap)},
		{"link that came since", "10.1.0.0/16 dev if9 proto 4", unicast4(16, dst4, numberAttribute(unix.RTA_OIF, 9))},
		{"number that is cut off", "10.1.0.0/16 proto 4", unicast4(16, dst4, appendAttribute(nil, unix.RTA_PRIORITY, []byte{1, 2, 3}))},
		{"nowhere by lo", "unreachable fd01::/64 proto 4", routeHeader(unix.AF_INET6, 64, 4, unix.RTN_UNREACHABLE, dst6, numberAttribute(unix.RTA_OIF, 1))},
		{"table of an attribute", "10.1.0.0/16 proto 4", changedAt(unicast4(16, dst4, numberAttribute(unix.RTA_TABLE, unix.RT_TABLE_MAIN)), 4, unix.RT_TABLE_COMPAT)},
	})
}

// All next hops of a list are read, up to the first one that is broken.
func TestRouteMessagesWithNextHops(t *testing.T) {
	encap := appendAttribute(nil, unix.RTA_ENCAP, []byte{0})
	twoHops := multipath(nextHop(0, 2, gateway4), nextHop(unix.RTNH_F_DEAD, 3, gateway4))
	checkMessages(t, []messageCase{
		{"two next hops", "10.1.0.0/16 via 192.168.1.1 dev eth0 proto 4; 10.1.0.0/16 via 192.168.1.1 dev eth1 proto 4 dead", unicast4(16, dst4, twoHops)},
		{"next hop of its header alone", "10.1.0.0/16 dev eth0 proto 4; 10.1.0.0/16 dev eth1 proto 4", unicast4(16, dst4, multipath(nextHop(0, 2), nextHop(0, 3)))},
		{"next hops padded", "10.1.0.0/16 dev eth0 proto 4 encap; 10.1.0.0/16 dev eth1 proto 4 encap", unicast4(16, dst4, multipath(nextHop(0, 2, encap), nextHop(0, 3, encap)[:13]))},
		{"next hop shorter than its header", "10.1.0.0/16 dev eth0 proto 4", unicast4(16, dst4, multipath(nextHop(0, 2), changedAt(nextHop(0, 3), 0, 7)))},
		{"next hop longer than its list", "10.1.0.0/16 dev eth0 proto 4", unicast4(16, dst4, multipath(nextHop(0, 2), changedAt(nextHop(0, 3), 0, 9)))},
		{"next hop cut off", "10.1.0.0/16 dev eth0 proto 4", unicast4(16, dst4, multipath(nextHop(0, 2), nextHop(0, 3)[:7]))},
	})
}

// A route is ours by its protocol and metric, unless it is of a kind that we never make.
func TestRouteMessagesOfOurMarks(t *testing.T) {
	twoHops := multipath(nextHop(0, 2, gateway4), nextHop(unix.RTNH_F_DEAD, 3, gateway4))
	checkMessages(t, []messageCase{
		{"ours", "10.1.0.0/16 via 192.168.1.1 dev eth0 proto 112 metric 2048 mine", marked(unix.AF_INET, 16, 2048, dst4, byEth0, gateway4)},
		{"our own subnet's", "10.1.0.0/16 proto 112 metric 4096 mine", marked(unix.AF_INET, 16, 4096, dst4)},
		{"of our protocol, with another metric", "10.1.0.0/16 proto 112 metric 2049", marked(unix.AF_INET, 16, 2049, dst4)},
		{"of our metric, with another protocol", "10.1.0.0/16 proto 4 metric 2048", unicast4(16, dst4, numberAttribute(unix.RTA_PRIORITY, 2048))},
		{"of our marks, for a type of service", "10.1.0.0/16 tos 0x8 proto 112 metric 2048", changedAt(marked(unix.AF_INET, 16, 2048, dst4), 3, 8)},
		{"of our marks, for a source", "fd01::/64 from fd02::/32 proto 112 metric 2048", changedAt(marked(unix.AF_INET6, 64, 2048, dst6, addressAttribute(unix.RTA_SRC, "fd02::")), 2, 32)},
		{"ours without carrier", "10.1.0.0/16 proto 112 metric 2048 mine", changedAt(marked(unix.AF_INET, 16, 2048, dst4), 8, unix.RTNH_F_DEAD)},
		{"of our marks, with two next hops", "10.1.0.0/16 via 192.168.1.1 dev eth0 proto 112 metric 2048; 10.1.0.0/16 via 192.168.1.1 dev eth1 proto 112 metric 2048 dead", marked(unix.AF_INET, 16, 2048, dst4, twoHops)},
		{
			"ours, joined by a next hop", "fd01::/64 via fd00::1 dev eth0 proto 112 src fd00::11 metric 2048 mine shared; fd01::/64 dev eth1 metric 2048",
			marked(unix.AF_INET6, 64, 2048, dst6, addressAttribute(unix.RTA_PREFSRC, "fd00::11"), multipath(nextHop(0, 2, gateway6), nextHop(0, 3))),
		},
	})
}

// An IPv6 route came by advertisement if it has that protocol, or if the kernel made it with an
// expiry.
func TestRouteMessagesOfAdvertisements(t *testing.T) {
	checkMessages(t, []messageCase{
		{"advertised default", "default dev eth0 proto 9 advertised", routeHeader(unix.AF_INET6, 0, unix.RTPROT_RA, unix.RTN_UNICAST, byEth0)},
		{"of IPv4 with that protocol", "default dev eth0 proto 9", routeHeader(unix.AF_INET, 0, unix.RTPROT_RA, unix.RTN_UNICAST, byEth0)},
		{"advertised prefix", "fd01::/64 proto 2 advertised", routeHeader(unix.AF_INET6, 64, unix.RTPROT_KERNEL, unix.RTN_UNICAST, dst6, expiry(5, 32))},
		{"no longer than the time left", "fd01::/64 proto 2 advertised", routeHeader(unix.AF_INET6, 64, unix.RTPROT_KERNEL, unix.RTN_UNICAST, dst6, expiry(5, 12))},
		{"time left cut off", "fd01::/64 proto 2", routeHeader(unix.AF_INET6, 64, unix.RTPROT_KERNEL, unix.RTN_UNICAST, dst6, expiry(5, 8))},
		{"for ever", "fd01::/64 proto 2", routeHeader(unix.AF_INET6, 64, unix.RTPROT_KERNEL, unix.RTN_UNICAST, dst6, expiry(0, 32))},
		{"foreign, that expires", "fd01::/64 proto 4", unicast6(64, dst6, expiry(5, 32))},
	})
}

// Broken routes are left out.
func TestRouteMessagesThatAreLeftOut(t *testing.T) {
	checkMessages(t, []messageCase{
		{"prefix longer than an address", "", unicast4(33, dst4)},
		{"destination of another family", "", unicast4(16, dst6)},
		{"destination of no family", "", unicast4(16, appendAttribute(nil, unix.RTA_DST, []byte{10, 1, 0}))},
		{"link-local", "", unicast6(64, addressAttribute(unix.RTA_DST, "fe80::"))},
		{"multicast", "", unicast6(8, addressAttribute(unix.RTA_DST, "ff00::"))},
		{"with a broken attribute", "", unicast4(16, dst4, []byte{3, 0, unix.RTA_OIF, 0})},
		{"cached", "", changedAt(unicast4(16, dst4), 9, unix.RTM_F_CLONED>>8)},
		{"cut off", "", unicast4(16)[:unix.SizeofRtMsg-1]},
		{"of another address family", "", changedAt(unicast4(16, dst4), 0, unix.AF_BRIDGE)},
	})
}

// Types of routes have the names of ip-route(8).
func TestTypesOfRoutes(t *testing.T) {
	links := testLinks()
	for kind, name := range map[byte]string{
		unix.RTN_LOCAL: "local ", unix.RTN_BROADCAST: "broadcast ", unix.RTN_ANYCAST: "anycast ", unix.RTN_MULTICAST: "multicast ", unix.RTN_UNICAST: "",
		unix.RTN_BLACKHOLE: "blackhole ", unix.RTN_UNREACHABLE: "unreachable ", unix.RTN_PROHIBIT: "prohibit ", unix.RTN_THROW: "throw ",
	} {
		var m message
		if !m.parse(routeHeader(unix.AF_INET, 0, 4, kind)) || m.text(links) != name+"default proto 4" {
			t.Errorf("type %d is %q, want %q", kind, m.text(links), name)
		}
	}
}
