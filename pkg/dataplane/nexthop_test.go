package dataplane

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// nextHop makes a next hop that is an object of its own; with members a group, with no gateway a
// blackhole.
func (m *machine) nextHop(id uint32, via string, members ...uint32) {
	m.t.Helper()
	family := byte(unix.AF_UNSPEC)
	var gateway netip.Addr
	if via != "" {
		gateway = netip.MustParseAddr(via)
	}
	switch {
	case len(members) > 0:
	case gateway.Is6():
		family = unix.AF_INET6
	default:
		family = unix.AF_INET
	}
	b := []byte{family, 0, 0, 0, 0, 0, 0, 0} // struct nhmsg
	b = appendAttribute(b, unix.NHA_ID, binary.NativeEndian.AppendUint32(nil, id))
	var group []byte
	for _, member := range members {
		group = append(binary.NativeEndian.AppendUint32(group, member), 0, 0, 0, 0)
	}
	switch {
	case len(members) > 0:
		b = appendAttribute(b, unix.NHA_GROUP, group)
	case gateway.IsValid():
		b = appendAttribute(b, unix.NHA_GATEWAY, gateway.AsSlice())
		b = appendAttribute(b, unix.NHA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(m.eth0.Attrs().Index)))
	default:
		b = appendAttribute(b, unix.NHA_BLACKHOLE, nil)
	}
	err := m.ask(unix.RTM_NEWNEXTHOP, netlink.Create|netlink.Replace, b)
	if errors.Is(err, unix.EOPNOTSUPP) {
		m.t.Skip("this kernel has no next hops that are objects")
	}
	m.must(err)
}

// routeByObject adds a route that names its next hop.
func (m *machine) routeByObject(dst string, id uint32) {
	m.t.Helper()
	b := encodeRoute(topology.Route{Dst: netip.MustParsePrefix(dst), Protocol: 186}, 0, unix.RT_SCOPE_UNIVERSE)
	b = appendAttribute(b, routeObject, binary.NativeEndian.AppendUint32(nil, id))
	m.must(m.ask(unix.RTM_NEWROUTE, netlink.Create, b))
}

// With nexthop_compat_mode=0 a route tells no more of its next hop than an id.
func TestRoutesByNextHopObjects(t *testing.T) {
	for _, compat := range []string{"1", "0"} {
		t.Run("nexthop_compat_mode="+compat, func(t *testing.T) {
			m := newMachine(t)
			m.needIPv6()
			m.sysctl("net/ipv4/nexthop_compat_mode", compat)
			all := nodes(3)
			m.settle(all)
			m.nextHop(1, "192.168.1.71")
			m.nextHop(2, "192.168.1.72")
			m.nextHop(3, "", 1, 2)
			m.nextHop(4, "")
			m.nextHop(5, "fd00:192:168:1::71")
			for dst, id := range map[string]uint32{
				"10.128.77.0/24": 1, "10.128.78.0/24": 3, "10.128.79.0/24": 4, "fd01:0:0:77::/64": 5, "172.30.0.0/16": 2,
			} {
				m.routeByObject(dst, id)
			}
			m.Forget()
			var routes []string
			for _, s := range m.facts(all) {
				if strings.Contains(s, "proto 186") {
					routes = append(routes, s)
				}
			}
			slices.Sort(routes)
			want := []string{
				"10.128.77.0/24 via 192.168.1.71 dev eth0 proto 186",
				"10.128.78.0/24 via 192.168.1.71 dev eth0 proto 186",
				"10.128.78.0/24 via 192.168.1.72 dev eth0 proto 186",
				"172.30.0.0/16 via 192.168.1.72 dev eth0 proto 186",
				"blackhole 10.128.79.0/24 proto 186",
				"fd01:0:0:77::/64 via fd00:192:168:1::71 dev eth0 proto 186 metric 1024",
			}
			if !slices.Equal(routes, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(routes, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// A next hop that routes name is news when it changes, also as a member of a group; others are none.
func TestChangedNextHopObject(t *testing.T) {
	m := newMachine(t)
	m.sysctl("net/ipv4/nexthop_compat_mode", "0")
	all := nodes(3)
	m.nextHop(1, "192.168.1.71")
	m.nextHop(2, "192.168.1.72")
	m.nextHop(3, "", 1)
	m.routeByObject("10.128.78.0/24", 3)
	news := m.watchSettled(all)
	m.nextHop(2, "192.168.1.73")
	m.quiet(news, "a next hop that no route names")
	m.nextHop(1, "192.168.1.74")
	m.expect(news, "a member of a group that a route names")
	if r := m.facts(all); !slices.Contains(r, "10.128.78.0/24 via 192.168.1.74 dev eth0 proto 186") {
		t.Errorf("the change is not seen: %q", r)
	}
}

// A kernel answers a dump for a family that it does not know with those of all families; nothing of
// them is taken.
func TestAnswersOfAnotherFamily(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[4] = unix.AF_X25, unix.RT_TABLE_MAIN
	given := 0
	_, err := m.rtnetlink.read(request{unix.RTM_GETROUTE, unix.NLM_F_DUMP, header}, func(uint16, []byte) { given++ })
	m.must(err)
	if given == 0 {
		t.Skip("this kernel knows AF_X25, or answers otherwise")
	}
	m.must(m.dumpFamily(unix.AF_X25, unix.RTPROT_UNSPEC, func(r *message) { t.Errorf("%v was taken", r.dst) }))
}
