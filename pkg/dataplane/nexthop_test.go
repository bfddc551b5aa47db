package dataplane

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
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
	b := appendRoute(nil, plan.Route{Route: topology.Route{Dst: netip.MustParsePrefix(dst), Protocol: 186}}, 0, unix.RT_SCOPE_UNIVERSE)
	b = appendAttribute(b, routeObject, binary.NativeEndian.AppendUint32(nil, id))
	m.must(m.ask(unix.RTM_NEWROUTE, netlink.Create, b))
}

// With nexthop_compat_mode=0 a route has only the id of its next hop.
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

// A next hop that routes name is news when it changes, also as a member of a group; others are
// none.
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
	m.must(m.rtnetlink.dump(unix.RTM_GETROUTE, header, func(uint16, []byte) { given++ }))
	if given == 0 {
		t.Skip("this kernel has AF_X25, or answers otherwise")
	}
	m.must(m.dumpFamily(unix.AF_X25, unix.RT_TABLE_MAIN, unix.RTPROT_UNSPEC, func(r *message) { t.Errorf("%v was taken", r.dst) }))
}

// objectMessage makes struct nhmsg with attributes (linux/nexthop.h).
func objectMessage(flags uint32, attributes ...[]byte) []byte {
	return slices.Concat(append([][]byte{binary.NativeEndian.AppendUint32(make([]byte, 4), flags)}, attributes...)...)
}

// group makes the members of a next hop that is a group, each with a weight.
func group(ids ...uint32) []byte {
	var b []byte
	for _, id := range ids {
		b = append(binary.NativeEndian.AppendUint32(b, id), 1, 0, 0, 0)
	}
	return appendAttribute(nil, unix.NHA_GROUP, b)
}

// A route that has only the id of a next hop goes by that, and by all of a group. A route with next
// hops of its own, or one that leads nowhere, stays as it is.
func TestRoutesAreResolved(t *testing.T) {
	objects := map[uint32]object{}
	gateway := addressAttribute(unix.NHA_GATEWAY, "192.168.1.71")
	for _, b := range [][]byte{
		objectMessage(0, numberAttribute(unix.NHA_ID, 1), gateway, numberAttribute(unix.NHA_OIF, 2)),
		objectMessage(unix.RTNH_F_DEAD, numberAttribute(unix.NHA_ID, 2), numberAttribute(unix.NHA_OIF, 3)),
		objectMessage(0, numberAttribute(unix.NHA_ID, 3), group(1, 2)),
		objectMessage(unix.RTNH_F_ONLINK, numberAttribute(unix.NHA_ID, 4), numberAttribute(unix.NHA_OIF, 2), appendAttribute(nil, unix.NHA_ENCAP, nil)),
	} {
		id, o := parseObject(b)
		objects[id] = o
	}
	if id, _ := parseObject(objectMessage(0, numberAttribute(unix.NHA_ID, 5))[:7]); id != 0 {
		t.Errorf("a message that is cut off has id %d", id)
	}
	if _, o := parseObject(objectMessage(unix.RTNH_F_DEAD)); !o.dead {
		t.Error("a message without attributes has no flags")
	}
	links := testLinks()
	dst, by := addressAttribute(unix.RTA_DST, "10.1.0.0"), func(id uint32) []byte { return numberAttribute(routeObject, id) }
	for _, c := range []struct {
		name, want string
		known      bool
		bytes      []byte
	}{
		{"no next hop", "10.1.0.0/16 proto 4", true, unicast4(16, dst)},
		{"one next hop", "10.1.0.0/16 via 192.168.1.71 dev eth0 proto 4", true, unicast4(16, dst, by(1))},
		{"no carrier", "10.1.0.0/16 dev eth1 proto 4 dead", true, unicast4(16, dst, by(2))},
		{"group", "10.1.0.0/16 via 192.168.1.71 dev eth0 proto 4; 10.1.0.0/16 dev eth1 proto 4 dead", true, unicast4(16, dst, by(3))},
		{"encapsulation", "10.1.0.0/16 dev eth0 proto 4 encap", true, unicast4(16, dst, by(4))},
		{"unknown", "10.1.0.0/16 proto 4", false, unicast4(16, dst, by(9))},
		{"device of its own", "10.1.0.0/16 dev eth0 proto 4", true, unicast4(16, dst, by(9), numberAttribute(unix.RTA_OIF, 2))},
		{"next hops of its own", "10.1.0.0/16 proto 4; 10.1.0.0/16 dev eth0 proto 4", true, unicast4(16, dst, by(9), multipath(nextHop(0, 0), nextHop(0, 2)))},
		{"nowhere", "blackhole 10.1.0.0/16 proto 4", true, routeHeader(unix.AF_INET, 16, 4, unix.RTN_BLACKHOLE, dst, by(9))},
	} {
		var m message
		if !m.parse(c.bytes) {
			t.Fatalf("%s: not a route", c.name)
		}
		if known := m.resolve(objects); known != c.known || m.text(links) != c.want {
			t.Errorf("%s: got %q, %t, want %q", c.name, m.text(links), known, c.want)
		}
	}
}

// A dump of next hops during which one is added is reported as interrupted, and a whole one has
// all.
func TestInterruptedDump(t *testing.T) {
	m := newMachine(t)
	const n = 3000 // more than a message of 32 KiB
	requests := make([]request, n)
	for i := range requests {
		requests[i] = request{unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE, objectMessage(0, numberAttribute(unix.NHA_ID, uint32(i+1)), appendAttribute(nil, unix.NHA_BLACKHOLE, nil))}
		requests[i].data[0] = unix.AF_INET
	}
	other := newSocket(m.namespace, unix.NETLINK_ROUTE)
	defer other.close()
	for chunk := range slices.Chunk(requests[1:], perSend) {
		for _, err := range other.acknowledge(chunk) {
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("this kernel has no next hops that are objects")
			}
			m.must(err)
		}
	}
	given := 0
	dump := func(change bool) error {
		given = 0
		return m.rtnetlink.dump(unix.RTM_GETNEXTHOP, make([]byte, unix.SizeofNhmsg), func(uint16, []byte) {
			if given++; change && given == 1 {
				m.must(other.acknowledge(requests[:1])[0])
			}
		})
	}
	if err := dump(true); !errors.Is(err, rtnl.ErrDumpInterrupted) {
		t.Errorf("in the midst of a change: %v", err)
	}
	if err := dump(false); err != nil || given != n {
		t.Errorf("%d next hops, %v", given, err)
	}
}
