package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// tunneled returns a machine whose agent encapsulates, and three Nodes of which the third is behind
// the router.
func tunneled(t *testing.T) (*machine, []*topology.Node) {
	t.Helper()
	m := newMachine(t)
	m.tune = func(o *topology.Options) {
		o.Encapsulation, o.VNI, o.VXLANPort = topology.EncapsulateCrossSubnet, 112, 4789
	}
	if m.ipv6 {
		m.must(m.nl.RouteAdd(&rtnl.Route{LinkIndex: m.eth0.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("::/0")), Gw: net.ParseIP("fd00:192:168:1::1")}))
	}
	all := nodes(3)
	all[2].Addrs = []netip.Addr{netip.MustParseAddr("192.168.2.13"), netip.MustParseAddr("fd00:192:168:2::13")}
	return m, all
}

// addTunnelWithPeer makes a tunnel, a neighbor and an FDB entry.
func (m *machine) addTunnelWithPeer() {
	m.t.Helper()
	tunnel := topology.Tunnel{Name: topology.Tunnel4, VNI: 7, Port: 4789, Local: netip.MustParseAddr("192.168.1.11"), MAC: topology.MAC{2}, MTU: 1450, Up: true}
	subnet := netip.MustParsePrefix("10.128.9.0/24")
	mac := topology.TunnelMAC(subnet)
	m.must(m.Apply(m.t.Context(), plan.Of(plan.Add, plan.Tunnel{Tunnel: tunnel}, plan.Neighbor{Neighbor: topology.Neighbor{Dev: tunnel.Name, Addr: subnet.Addr(), MAC: mac}},
		plan.FDBEntry{FDBEntry: topology.FDBEntry{Dev: tunnel.Name, MAC: mac, Dst: netip.MustParseAddr("192.168.2.13")}})))
}

func (m *machine) tunnel(name string) *rtnl.Vxlan {
	m.t.Helper()
	v, ok := m.link(name).(*rtnl.Vxlan)
	if !ok {
		m.t.Fatalf("%s is not a VXLAN device", name)
	}
	return v
}

// onTunnel lists what another program sees on a tunnel: addresses, neighbors, FDB entries, routes.
func (m *machine) onTunnel(name string) (all []string) {
	m.t.Helper()
	link, err := m.nl.LinkByName(name)
	if err != nil {
		return nil
	}
	addrs, err := m.nl.AddrList(link, rtnl.FAMILY_ALL)
	m.must(err)
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			all = append(all, "address "+a.IPNet.String())
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		neighbors, err := m.nl.NeighList(link.Attrs().Index, family)
		m.must(err)
		for _, n := range neighbors {
			if n.State&unix.NUD_PERMANENT != 0 {
				all = append(all, fmt.Sprintf("%s %s", n.IP, n.HardwareAddr))
			}
		}
	}
	for _, r := range m.ours() {
		if r.LinkIndex == link.Attrs().Index {
			all = append(all, fmt.Sprintf("route %s via %s src %s", r.Dst, r.Gw, r.Src))
		}
	}
	slices.Sort(all)
	return all
}

func TestTunnels(t *testing.T) {
	m, all := tunneled(t)
	m.settle(all)
	want := []string{
		"10.128.2.0 02:18:0a:80:02:00", "192.168.2.13 02:18:0a:80:02:00", "address 10.128.0.0/32", "route 10.128.2.0/24 via 10.128.2.0 src 10.128.0.0",
	}
	if got := m.onTunnel(topology.Tunnel4); !slices.Equal(got, want) {
		t.Errorf("on the IPv4 tunnel there are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	v := m.tunnel(topology.Tunnel4)
	if v.VxlanId != 112 || v.Port != 4789 || v.Learning || v.MTU != 1450 || !v.SrcAddr.Equal(net.ParseIP("192.168.1.11")) || v.HardwareAddr.String() != "02:18:0a:80:00:00" || v.Flags&net.FlagUp == 0 {
		t.Errorf("the IPv4 tunnel is %+v", v)
	}
	if m.ipv6 {
		gateway := topology.TunnelGateway(all[2].PodCIDRs[1]).String()
		mac := topology.TunnelMAC(all[2].PodCIDRs[1]).String()
		want := []string{"address fd01::/128", "fd00:192:168:2::13 " + mac, gateway + " " + mac, "route fd01:0:0:2::/64 via " + gateway + " src fd01::"}
		slices.Sort(want)
		if got := m.onTunnel(topology.Tunnel6); !slices.Equal(got, want) {
			t.Errorf("on the IPv6 tunnel there are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if v := m.tunnel(topology.Tunnel6); v.MTU != 1430 || !v.SrcAddr.Equal(net.ParseIP("fd00:192:168:1::11")) {
			t.Errorf("the IPv6 tunnel is %+v", v)
		}
	}
	m.restart()
	m.Forget()
	if c := m.diff(all); !c.Empty() {
		t.Errorf("after a restart there is left to do:\n%v", c)
	}
}

// A bridge that is older than the tunnel makes the tunnel's address a broadcast address, before Linux 5.14.
func TestTunnelBesideABroadcastAddress(t *testing.T) {
	m, all := tunneled(t)
	tunnels := m.tune
	m.tune = nil
	m.settle(all)
	bridge := m.link(topology.Bridge).Attrs().Index
	m.must(m.nl.RouteReplace(&rtnl.Route{
		Dst: ipNet(netip.MustParsePrefix("10.128.0.0/32")), LinkIndex: bridge, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_BROADCAST, Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_KERNEL,
	}))
	m.tune = tunnels
	m.settle(all)
	if got := m.onTunnel(topology.Tunnel4); !slices.Contains(got, "route 10.128.2.0/24 via 10.128.2.0 src 10.128.0.0") {
		t.Errorf("on the tunnel there are %q", got)
	}
}

// faults are what another program may do to a tunnel.
func (m *machine) tunnelFaults() map[string]func(name string) error {
	index := func(name string) int { return m.link(name).Attrs().Index }
	peer := func(name string, family int) *rtnl.Neigh {
		all, err := m.nl.NeighList(index(name), family)
		m.must(err)
		i := slices.IndexFunc(all, func(n rtnl.Neigh) bool { return n.State&unix.NUD_PERMANENT != 0 })
		if i < 0 {
			m.t.Fatalf("%s has no peer of family %d", name, family)
		}
		return &all[i]
	}
	family := map[string]int{topology.Tunnel4: unix.AF_INET, topology.Tunnel6: unix.AF_INET6}
	return map[string]func(name string) error{
		"deleted":  func(name string) error { return m.nl.LinkDel(m.link(name)) },
		"set down": func(name string) error { return m.nl.LinkSetDown(m.link(name)) },
		"its MTU":  func(name string) error { return m.nl.LinkSetMTU(m.link(name), 1300) },
		"its MAC": func(name string) error {
			return m.nl.LinkSetHardwareAddr(m.link(name), net.HardwareAddr{2, 1, 1, 1, 1, 1})
		},
		"FDB entry": func(name string) error { return m.nl.NeighDel(peer(name, unix.AF_BRIDGE)) },
		"FDB entry changed": func(name string) error {
			entry := peer(name, unix.AF_BRIDGE)
			entry.IP[len(entry.IP)-1]++
			return m.nl.NeighSet(entry)
		},
		"foreign FDB entry": func(name string) error {
			entry := peer(name, unix.AF_BRIDGE)
			entry.HardwareAddr = net.HardwareAddr{2, 7, 7, 7, 7, 7}
			return m.nl.NeighAppend(entry)
		},
		"neighbor": func(name string) error { return m.nl.NeighDel(peer(name, family[name])) },
		"neighbor changed": func(name string) error {
			n := peer(name, family[name])
			n.HardwareAddr[5]++
			return m.nl.NeighSet(n)
		},
		"neighbor not permanent": func(name string) error {
			n := peer(name, family[name])
			n.State = unix.NUD_STALE
			return m.nl.NeighSet(n)
		},
		"address": func(name string) error {
			addrs, err := m.nl.AddrList(m.link(name), family[name])
			m.must(err)
			i := slices.IndexFunc(addrs, func(a rtnl.Addr) bool { return !a.IP.IsLinkLocalUnicast() })
			return m.nl.AddrDel(m.link(name), &addrs[i])
		},
		"renamed": func(name string) error {
			m.must(m.nl.LinkSetDown(m.link(name)))
			return m.nl.LinkSetName(m.link(name), "other")
		},
	}
}

// settingFaults change what a tunnel is.
func (m *machine) settingFaults() map[string]func(name string) error {
	return map[string]func(name string) error{
		"its mark": func(name string) error { return m.nl.LinkSetAlias(m.link(name), "mine") },
		"its mark and its TTL": func(name string) error {
			m.must(m.nl.LinkSetAlias(m.link(name), "mine"))
			return m.changeTunnel(name, appendAttribute(nil, unix.IFLA_VXLAN_TTL, []byte{1, 0, 0, 0}))
		},
		"learning": func(name string) error {
			return m.changeTunnel(name, appendAttribute(nil, unix.IFLA_VXLAN_LEARNING, []byte{1, 0, 0, 0}))
		},
		"its TTL": func(name string) error {
			return m.changeTunnel(name, appendAttribute(nil, unix.IFLA_VXLAN_TTL, []byte{1, 0, 0, 0}))
		},
		"made anew without checksums": func(name string) error {
			return m.remakeTunnel(name, func(v *rtnl.Vxlan) { v.UDPCSum = false })
		},
		"made anew with IPv6 checksums of 0": func(name string) error {
			return m.remakeTunnel(name, func(v *rtnl.Vxlan) { v.UDP6ZeroCSumTx = true })
		},
	}
}

// changeTunnel changes settings of a tunnel in place, as `ip link set type vxlan` does.
func (m *machine) changeTunnel(name string, settings []byte) error {
	v := m.link(name).(*rtnl.Vxlan)
	data := append(appendNumber(nil, unix.IFLA_VXLAN_ID, v.VxlanId), settings...)
	info := appendAttribute(nil, unix.IFLA_INFO_KIND, []byte("vxlan\x00\x00\x00"))
	info = appendAttribute(info, unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, data)
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(v.Index))
	other := newSocket(m.namespace, unix.NETLINK_ROUTE)
	if err := other.open(); err != nil {
		return err
	}
	defer other.close()
	return errors.Join(other.acknowledge([]request{{kind: unix.RTM_NEWLINK, data: appendAttribute(b, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, info)}})...)
}

// remakeTunnel has another program make a device in place of a tunnel, with our mark and another setting.
func (m *machine) remakeTunnel(name string, change func(*rtnl.Vxlan)) error {
	v := *m.link(name).(*rtnl.Vxlan)
	m.must(m.nl.LinkDel(&v))
	attrs := rtnl.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Alias = name, v.MTU, v.HardwareAddr, v.Alias
	v.LinkAttrs = attrs
	change(&v)
	m.must(m.nl.LinkAdd(&v))
	m.must(m.nl.LinkSetAlias(&v, topology.TunnelAlias))
	return m.nl.LinkSetUp(m.link(name))
}

// A node that no longer encapsulates deletes its tunnels first, and what filters them in the next pass, which their deletion asks
// for.
func TestFilterOutlivesItsTunnel(t *testing.T) {
	m, all := tunneled(t)
	news := m.watchSettled(all)
	m.tune = func(*topology.Options) {}
	c := m.pass(all)
	table := slices.IndexFunc(c, func(x plan.Change) bool { return x.Kind() == plan.KindTable && x.Op != plan.Add })
	tunnel := slices.IndexFunc(c, func(x plan.Change) bool { return x.Kind() == plan.KindTunnel })
	if tunnel < 0 || table >= 0 && table < tunnel {
		t.Errorf("the filter goes before its tunnel: %v", c)
	}
	m.expect(news, "the deletion of a tunnel")
	m.awaitEmpty(all, "the setting never")
	if got := m.observed(); len(got.Tunnels) > 0 || len(got.Masquerade.Tunnels)+len(got.Masquerade.Endpoints) > 0 {
		t.Errorf("left are %v, %v and %v", got.Tunnels, got.Masquerade.Tunnels, got.Masquerade.Endpoints)
	}
}

// A tunnel that lost its mark is deleted by a node that no longer encapsulates.
func TestUnmarkedTunnelIsDeleted(t *testing.T) {
	m, all := tunneled(t)
	news := m.watchSettled(all)
	m.must(m.nl.LinkSetAlias(m.link(topology.Tunnel4), ""))
	m.expect(news, "the loss of a mark")
	m.tune = func(*topology.Options) {}
	m.awaitEmpty(all, "the setting never")
	if _, err := m.nl.LinkByName(topology.Tunnel4); err == nil {
		t.Error("a tunnel without its mark is left")
	}
	if got := m.observed(); len(got.Masquerade.Tunnels) > 0 {
		t.Errorf("the filter is left: %v", got.Masquerade)
	}
}

// A device that took the place of a tunnel without its mark, after that was read, is not changed.
func TestForeignTunnelIsNotMarked(t *testing.T) {
	m, all := tunneled(t)
	news := m.watchSettled(all)
	m.must(m.nl.LinkSetAlias(m.link(topology.Tunnel4), ""))
	m.expect(news, "the loss of a mark")
	c := m.diff(all)
	m.must(m.nl.LinkDel(m.link(topology.Tunnel4)))
	attrs := rtnl.NewLinkAttrs()
	attrs.Name = topology.Tunnel4
	m.must(m.nl.LinkAdd(&rtnl.Vxlan{LinkAttrs: attrs, VxlanId: 112, Port: 4789, SrcAddr: net.ParseIP("192.168.1.11")}))
	if err := m.Apply(m.t.Context(), c); !errors.Is(err, errForeignTunnel) {
		t.Errorf("for %v the error is %v", c, err)
	}
	if v := m.tunnel(topology.Tunnel4); v.Alias != "" {
		t.Errorf("another program's device has the alias %q", v.Alias)
	}
}

// Each is noticed by a notification and repaired by one pass, or two if the kernel removes more with
// it, and then all is as it was.
func TestTunnelFaultsAreRepaired(t *testing.T) {
	m, all := tunneled(t)
	news := m.watchSettled(all)
	before := map[string][]string{topology.Tunnel4: m.onTunnel(topology.Tunnel4), topology.Tunnel6: m.onTunnel(topology.Tunnel6)}
	for name := range before {
		if !m.ipv6 && name == topology.Tunnel6 {
			continue
		}
		faults := m.tunnelFaults()
		maps.Copy(faults, m.settingFaults())
		for what, fault := range faults {
			m.must(fault(name))
			m.expect(news, what)
			m.awaitEmpty(all, what+" of "+name)
			if got := m.onTunnel(name); !slices.Equal(got, before[name]) {
				t.Errorf("%s of %s: there are\n%s\nwant\n%s", what, name, strings.Join(got, "\n"), strings.Join(before[name], "\n"))
			}
			m.settle(all)
			drain(news, shortly)
		}
	}
}

// Of a tunnel that is deleted only its own notification is news: before that the kernel announces the
// deletion of all that is on it, which a pass could not add.
func TestDeletedTunnelIsOneNotification(t *testing.T) {
	m, all := tunneled(t)
	m.settle(all)
	on, index := m.observed(), m.link(topology.Tunnel4).Attrs().Index
	messages := []netlink.Message{
		{Header: netlink.Header{Type: unix.RTM_DELNEIGH}, Data: m.encodePeer(plan.FDBEntry{FDBEntry: on.FDB[0]})},
		{Header: netlink.Header{Type: unix.RTM_DELNEIGH}, Data: m.encodePeer(plan.Neighbor{Neighbor: on.Neighbors[0]})},
	}
	m.must(m.nl.LinkDel(m.link(topology.Tunnel4)))
	for _, message := range messages {
		if m.learnOne(message) {
			t.Errorf("the deletion of %v before that of the tunnel counts as news", on.FDB[0])
		}
	}
	if !m.learnOne(netlink.Message{Header: netlink.Header{Type: unix.RTM_DELLINK}, Data: linkMessage(index, topology.Tunnel4, 0)}) {
		t.Error("the deletion of the tunnel does not count as news")
	}
	m.settle(all)
}

// awaitEmpty makes passes as notifications ask for them, without Forget, until nothing is left to do.
func (m *machine) awaitEmpty(all []*topology.Node, after string) {
	m.t.Helper()
	for range 50 {
		if m.pass(all).Empty() {
			return
		}
	}
	m.t.Fatalf("%s: still left to do: %v", after, m.diff(all))
}

// A peer that comes on link, and leaves it again, has a route at each moment.
func TestPeerMovesBetweenTunnelAndLink(t *testing.T) {
	m, all := tunneled(t)
	m.settle(all)
	away := slices.Clone(all[2].Addrs)
	here := []netip.Addr{netip.MustParseAddr("192.168.1.13"), netip.MustParseAddr("fd00:192:168:1::13")}
	for range 2 {
		for _, addrs := range [][]netip.Addr{here, away} {
			moved := *all[2]
			moved.Addrs = addrs
			all[2] = &moved
			c := m.pass(all)
			if n := len(plan.Objects[plan.Route](c, plan.Replace)); n != m.families() || len(plan.Objects[plan.Route](c, plan.Add, plan.Delete)) > 0 {
				t.Errorf("a move to %v replaces %d routes; want %d: %v", addrs, n, m.families(), c)
			}
			m.settle(all)
			if want := map[bool]int{true: 0, false: 4}[addrs[0] == here[0]]; len(m.onTunnel(topology.Tunnel4)) != want+1 && want == 0 || want == 4 && len(m.onTunnel(topology.Tunnel4)) != want {
				t.Errorf("with the peer at %v there are on the tunnel %v", addrs, m.onTunnel(topology.Tunnel4))
			}
		}
	}
}

// A tunnel with another VNI or port is recreated; everything is on it again after one pass.
func TestTunnelIsRecreated(t *testing.T) {
	m, all := tunneled(t)
	m.settle(all)
	before := m.onTunnel(topology.Tunnel4)
	former := m.tune
	m.tune = func(o *topology.Options) { former(o); o.VNI, o.VXLANPort = 7, 8472 }
	m.pass(all)
	if v := m.tunnel(topology.Tunnel4); v.VxlanId != 7 || v.Port != 8472 || !slices.Equal(m.onTunnel(topology.Tunnel4), before) {
		t.Errorf("there is %+v with %v, want %v", v, m.onTunnel(topology.Tunnel4), before)
	}
	m.settle(all)
	m.tune = nil
	m.settle(all)
	if m.onTunnel(topology.Tunnel4) != nil || m.onTunnel(topology.Tunnel6) != nil {
		t.Error("without encapsulation a tunnel is left")
	}
}

// An agent that was killed before it had marked a new tunnel leaves a device with the tunnel's VNI and
// port, which the next one, or a cleanup, removes.
func TestInterruptedTunnel(t *testing.T) {
	m, all := tunneled(t)
	leave := func() {
		attrs := rtnl.NewLinkAttrs()
		attrs.Name = unmarkedTunnel
		m.must(m.nl.LinkAdd(&rtnl.Vxlan{LinkAttrs: attrs, VxlanId: 112, Port: 4789, SrcAddr: net.ParseIP("192.168.1.11")}))
	}
	gone := func(after string) {
		t.Helper()
		if _, err := m.nl.LinkByName(unmarkedTunnel); err == nil {
			t.Errorf("%s is left after %s", unmarkedTunnel, after)
		}
	}
	leave()
	m.settle(all)
	gone("a pass")
	if len(m.onTunnel(topology.Tunnel4)) == 0 {
		t.Error("there is no tunnel")
	}
	m.tune = nil
	m.settle(all)
	leave()
	m.Sweep()
	gone("a sweep")
}

// A device of our name without our mark is reported, and stays as it is.
func TestForeignTunnelStays(t *testing.T) {
	m, all := tunneled(t)
	attrs := rtnl.NewLinkAttrs()
	attrs.Name, attrs.MTU = topology.Tunnel4, 1400
	m.must(m.nl.LinkAdd(&rtnl.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 8472, Learning: true}))
	m.up(topology.Tunnel4)
	before := fmt.Sprintf("%+v", m.tunnel(topology.Tunnel4).LinkAttrs.Flags)
	m.settleOwnFault(all, problem.TunnelFailed)
	if v := m.tunnel(topology.Tunnel4); v.VxlanId != 1 || v.MTU != 1400 || !v.Learning || fmt.Sprintf("%+v", v.LinkAttrs.Flags) != before || len(m.onTunnel(topology.Tunnel4)) > 0 {
		t.Errorf("the foreign device is %+v now, with %v", v, m.onTunnel(topology.Tunnel4))
	}
	m.must(m.Apply(context.Background(), plan.Diff(topology.State{}, m.observe())))
	m.tunnel(topology.Tunnel4)
}

// The error names a VNI and port that another device has.
func TestTunnelOfAnotherProgram(t *testing.T) {
	m, all := tunneled(t)
	attrs := rtnl.NewLinkAttrs()
	attrs.Name = "flannel.112"
	m.must(m.nl.LinkAdd(&rtnl.Vxlan{LinkAttrs: attrs, VxlanId: 112, Port: 4789, SrcAddr: net.ParseIP("192.168.1.11")}))
	m.Forget()
	err := m.Apply(context.Background(), m.diff(all))
	if err == nil || !strings.Contains(err.Error(), "VNI 112") {
		t.Errorf("the error is %v", err)
	}
	host, err := m.Facts(context.Background(), topology.Concerns(options(m), all))
	m.must(err)
	_, problems := topology.Desired(options(m), host, m.stated(all), m.observed())
	for _, p := range problems {
		if p.Reason == problem.TunnelConflict && strings.Contains(p.Message, "flannel.112") {
			return
		}
	}
	t.Errorf("flannel.112 is not reported: %v", problems)
}
