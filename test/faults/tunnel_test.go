package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

const vxlanPort = 4789

func tunnelFaults() []fault {
	blocked := tunneled("a firewall of the host drops the tunnels' packets", "doctor finds it; packets flow again once it is gone", 1, blockTunnels)
	blocked.alone = true
	return []fault{
		tunneled("the tunnels deleted", "they are made again, with all that was on them", 3, (*lab).deleteTunnels),
		tunneled("the tunnels set down", "they are set up again, with all that was on them", 3, func(l *lab) {
			l.eachTunnel(func(link netlink.Link, _ netip.Prefix) error { return l.node.Handle().LinkSetDown(link) })
		}),
		tunneled("the tunnels renamed", "they are made again, with all that was on them", 2, func(l *lab) {
			l.eachTunnel(func(link netlink.Link, _ netip.Prefix) error {
				return errors.Join(l.node.Handle().LinkSetDown(link), l.node.Handle().LinkSetName(link, "renamed"+link.Attrs().Name[len("plainroute"):]))
			})
		}),
		tunneled("the tunnels replaced by another program's devices of their names", "they are reported and left alone; the tunnels are made again once they are gone", 1, replaceTunnels),
		tunneled("a peer's FDB entries deleted", "they are put back", 5, (*lab).deleteEntries),
		tunneled("a peer's FDB entries diverted to another VNI", "they are put right", 3, (*lab).divertEntries),
		tunneled("a peer's neighbors on the tunnels deleted", "they are put back", 5, (*lab).deleteNeighbors),
		tunneled("the tunnels' addresses deleted", "they are given back, and the routes that the kernel removed with them", 3, func(l *lab) {
			l.eachTunnel(func(link netlink.Link, _ netip.Prefix) error { return l.deleteTunnelAddress(link) })
		}),
		tunneled("the uplink's addresses removed and added again, by which the tunnels' packets leave", "the host's network manager restores its own routes; the tunnels stay", 1, func(l *lab) {
			before := l.link(topology.Tunnel4).Attrs().Index
			addressLoss(l)
			if after := l.link(topology.Tunnel4).Attrs().Index; after != before {
				l.t.Errorf("the tunnel was made again: its index is %d and was %d", after, before)
			}
		}),
		blocked,
	}
}

// tunneled is a fault of a node that reaches all others by tunnels.
func tunneled(name, answer string, times int, inject func(*lab)) fault {
	return fault{
		name: name, answer: answer, prepare: (*lab).encapsulate, inject: inject, times: times, within: healLimit, loses: untilRepaired,
	}
}

// byTunnels are the same faults between nodes that reach each other by tunnels. While an address is replaced, the first
// agent to see it drops the packets that the other node sends.
func byTunnels(faults []fault, loses losses) []fault {
	for i := range faults {
		f := &faults[i]
		prepare := f.prepare
		f.name += ", by tunnels"
		f.loses = loses
		f.prepare = func(l *lab) {
			l.encapsulate()
			if prepare != nil {
				prepare(l)
			}
		}
	}
	return faults
}

// encapsulate has both nodes reach all others by tunnels, beside other programs' VXLAN devices.
func (l *lab) encapsulate() {
	l.t.Helper()
	l.options.Args = append(l.options.Args, "--encapsulation=always")
	l.peerOptions.Args = append(l.peerOptions.Args, "--encapsulation=always")
	for _, m := range []*machine{l.node, l.peer} {
		l.must(m.Sysctl("net/ipv4/conf/"+uplink+"/rp_filter", "2")) // as the agent would set it
		l.must(m.plantVXLAN())
	}
}

// eachTunnel calls do with the node's tunnels and the peer's subnets to which they lead.
func (l *lab) eachTunnel(do func(netlink.Link, netip.Prefix) error) {
	l.t.Helper()
	for i, name := range []string{topology.Tunnel4, topology.Tunnel6} {
		l.must(do(l.link(name), l.peer.Subnets[i]))
	}
}

// sendsFrom returns an error if a tunnel's packets have another source than these addresses, IPv4 first.
func (m *machine) sendsFrom(addresses []netip.Addr) error {
	for i, name := range []string{topology.Tunnel4, topology.Tunnel6} {
		link, err := m.Handle().LinkByName(name)
		if err != nil {
			continue // it has none
		}
		if v, ok := link.(*netlink.Vxlan); !ok || !v.SrcAddr.Equal(addresses[i].AsSlice()) {
			return fmt.Errorf("%s of %s is %+v; want packets from %s", name, m.Name, v, addresses[i])
		}
	}
	return nil
}

// acceptsFrom returns an error if tunnels of the node do not accept packets from these addresses.
func (m *machine) acceptsFrom(addresses []netip.Addr) error {
	conn, err := m.NFT()
	if err != nil {
		return err
	}
	sets, err := conn.GetSets(ourTable())
	if err != nil {
		return fmt.Errorf("listing nftables' sets: %w", err)
	}
	for i, name := range []string{"endpoints4", "endpoints6"} {
		at := slices.IndexFunc(sets, func(set *nftables.Set) bool { return set.Name == name })
		if at < 0 {
			continue
		}
		elements, err := conn.GetSetElements(sets[at])
		if err != nil {
			return fmt.Errorf("listing the elements of %s: %w", name, err)
		}
		if !slices.ContainsFunc(elements, func(e nftables.SetElement) bool { return string(e.Key) == string(addresses[i].AsSlice()) }) {
			return fmt.Errorf("%s of %s lacks %s", name, m.Name, addresses[i])
		}
	}
	return nil
}

func (l *lab) deleteTunnels() {
	l.t.Helper()
	l.eachTunnel(func(link netlink.Link, _ netip.Prefix) error { return l.node.Handle().LinkDel(link) })
}

// entry is the FDB entry of a peer, and neighbor that of its end of the tunnel.
func (l *lab) entry(link netlink.Link, subnet netip.Prefix) *netlink.Neigh {
	mac := topology.TunnelMAC(subnet)
	return &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, HardwareAddr: mac[:], IP: l.peer.Addr(subnet.Addr()).AsSlice(),
	}
}

func (l *lab) neighbor(link netlink.Link, subnet netip.Prefix) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link.Attrs().Index, IP: topology.TunnelGateway(subnet).AsSlice()}
}

func (l *lab) deleteEntries() {
	l.t.Helper()
	l.eachTunnel(func(link netlink.Link, subnet netip.Prefix) error {
		return l.node.Handle().NeighDel(l.entry(link, subnet))
	})
}

func (l *lab) divertEntries() {
	l.t.Helper()
	l.eachTunnel(func(link netlink.Link, subnet netip.Prefix) error {
		entry := l.entry(link, subnet)
		entry.VNI, entry.State = 99, netlink.NUD_PERMANENT
		return l.node.Handle().NeighSet(entry)
	})
}

func (l *lab) deleteNeighbors() {
	l.t.Helper()
	l.eachTunnel(func(link netlink.Link, subnet netip.Prefix) error {
		return l.node.Handle().NeighDel(l.neighbor(link, subnet))
	})
}

func (l *lab) deleteTunnelAddress(link netlink.Link) error {
	addresses, err := l.node.Handle().AddrList(link, netlink.FAMILY_ALL)
	for i := range addresses {
		if !addresses[i].IP.IsLinkLocalUnicast() {
			err = errors.Join(err, l.node.Handle().AddrDel(link, &addresses[i]))
		}
	}
	return err
}

// replaceTunnels repeats what it does until the agent is not the first to make a device of the name.
func replaceTunnels(l *lab) {
	l.eachTunnel(func(link netlink.Link, _ netip.Prefix) error {
		other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}}
		if err := l.node.Handle().LinkAdd(other); err != nil {
			return err
		}
		for {
			ours, err := l.node.Handle().LinkByName(link.Attrs().Name)
			if err == nil {
				err = l.node.Handle().LinkDel(ours)
			}
			if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) && !errors.Is(err, unix.ENODEV) {
				return err
			}
			if err := l.node.Handle().LinkSetName(other, link.Attrs().Name); !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
	})
	for _, name := range []string{topology.Tunnel4, topology.Tunnel6} {
		l.await(func() error { return l.checkProblem(problem.TunnelFailed, name+" is not ours (its kind is bridge") })
		if _, other := l.link(name).(*netlink.Bridge); !other {
			l.t.Errorf("the other program's %s is gone", name)
		}
		l.must(l.node.Handle().LinkDel(l.link(name)))
	}
	l.repairable()
}

// blockTunnels lasts until doctor has found it. It is alone, because doctor looks at all nodes.
func blockTunnels(l *lab) {
	l.expectDoctor("ok: forward-policy", "ok: policy-rules", "ok: pod-packets")
	l.broken()
	firewall := &nftables.Table{Name: "firewall", Family: nftables.TableFamilyINet}
	l.changeTable(func(conn *nftables.Conn) {
		conn.AddTable(firewall)
		input := conn.AddChain(&nftables.Chain{
			Name: "input", Table: firewall, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		conn.AddRule(&nftables.Rule{Table: firewall, Chain: input, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{vxlanPort >> 8, vxlanPort & 0xff}},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	})
	l.expectDoctor("pod-packets: nodes answer, but packets to their pods by the tunnel do not arrive there, or the answers are lost: " + l.peer.Name)
	l.changeTable(func(conn *nftables.Conn) { conn.DelTable(firewall) })
	l.repairable()
}

// expectDoctor fails the test unless doctor prints all of this on the node.
func (l *lab) expectDoctor(want ...string) {
	l.t.Helper()
	found, err := l.node.Doctor(l.within(limit), "--verbose")
	l.must(err)
	for _, text := range want {
		if !strings.Contains(found.Stdout, text) {
			l.t.Errorf("doctor does not print %q:\n%s", text, found.Stdout)
		}
	}
}

// plantVXLAN makes VXLAN devices of other programs, as flannel does, and one on our own UDP port, with what is on
// them.
func (m *machine) plantVXLAN() error {
	for _, other := range []*netlink.Vxlan{
		{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1", MTU: 1450}, VxlanId: 1, Port: 8472, SrcAddr: m.V4.AsSlice()},
		{LinkAttrs: netlink.LinkAttrs{Name: "other.7"}, VxlanId: 7, Port: vxlanPort, Learning: true},
	} {
		if err := errors.Join(m.Handle().LinkAdd(other), m.Handle().LinkSetUp(other)); err != nil {
			return fmt.Errorf("making %s: %w", other.Name, err)
		}
		at, mac := other.Attrs().Index, net.HardwareAddr{2, 0, 0, 0, 0, byte(other.VxlanId)}
		address := netip.AddrFrom4([4]byte{172, 29, byte(other.VxlanId), 0})
		for _, add := range []error{
			m.Handle().AddrAdd(other, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, 32))}),
			m.Handle().NeighSet(&netlink.Neigh{LinkIndex: at, IP: address.Next().AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}),
			m.Handle().NeighSet(&netlink.Neigh{LinkIndex: at, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: net.IPv4(192, 0, 2, 9), HardwareAddr: mac, State: netlink.NUD_PERMANENT}),
		} {
			if add != nil {
				return fmt.Errorf("adding to %s: %w", other.Name, add)
			}
		}
	}
	return nil
}

func isTunnel(name string) bool { return name == topology.Tunnel4 || name == topology.Tunnel6 }

// addVXLAN adds the VXLAN devices of the names that keep accepts, with all that is on them, or with what is there for
// one peer.
func (s state) addVXLAN(m *machine, keep func(name string) bool, peer *machine) error {
	links, err := m.Handle().LinkList()
	if err != nil {
		return fmt.Errorf("listing the links of %s: %w", m.Name, err)
	}
	for _, link := range links {
		vxlan, ok := link.(*netlink.Vxlan)
		if !ok || !keep(vxlan.Name) {
			continue
		}
		if err := errors.Join(s.addOnVXLAN(m, vxlan, peer), s.addDevice(*vxlan)); err != nil {
			return fmt.Errorf("describing %s: %w", vxlan.Name, err)
		}
	}
	return nil
}

// addDevice adds all attributes of a VXLAN device but its counters and its index: one that is made again has another.
func (s state) addDevice(v netlink.Vxlan) error {
	v.Index, v.Statistics = 0, nil
	text, err := json.Marshal(v)
	s["VXLAN device "+v.Name] = string(text)
	return err
}

// addOnVXLAN adds addresses, permanent neighbors and FDB entries.
func (s state) addOnVXLAN(m *machine, v *netlink.Vxlan, peer *machine) error {
	addresses, err := m.Handle().AddrList(v, netlink.FAMILY_ALL)
	for _, a := range addresses {
		if !a.IP.IsLinkLocalUnicast() {
			s[fmt.Sprintf("address %s of %s", a.IPNet, v.Name)] = ""
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		known, failure := m.Handle().NeighList(v.Index, family)
		err = errors.Join(err, failure)
		for _, n := range known {
			if n.State&netlink.NUD_PERMANENT != 0 && (peer == nil || peer.hasTunnelMAC(n.HardwareAddr)) {
				n.LinkIndex, n.Confirmed, n.Used, n.Updated = 0, 0, 0, 0
				s[fmt.Sprintf("on %s: %+v", v.Name, n)] = ""
			}
		}
	}
	return err
}

func (m *machine) hasTunnelMAC(mac net.HardwareAddr) bool {
	return slices.ContainsFunc(m.Subnets, func(subnet netip.Prefix) bool { return topology.TunnelMAC(subnet).String() == mac.String() })
}
