package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// tunnelOf returns a link as a tunnel of ours, if it is one: a VXLAN device with our mark. The
// name alone is not a mark.
func tunnelOf(l rtnl.Link) (topology.Tunnel, bool) {
	v, ok := l.(*rtnl.Vxlan)
	if !ok || v.Alias != topology.TunnelAlias {
		return topology.Tunnel{}, false
	}
	local, _ := netip.AddrFromSlice(v.SrcAddr)
	t := topology.Tunnel{
		Name: v.Name, VNI: v.VxlanId, Port: v.Port, Local: local.Unmap(), MTU: v.MTU, Up: v.Flags&net.FlagUp != 0, Odd: oddSettings(v),
	}
	copy(t.MAC[:], v.HardwareAddr)
	return t, true
}

// oddSettings returns a setting that differs from those of addTunnel, in ip-link(8)'s syntax.
func oddSettings(v *rtnl.Vxlan) string {
	switch {
	case v.Learning:
		return "learning"
	case len(v.Group) > 0 && !v.Group.IsUnspecified():
		return "remote " + v.Group.String()
	case v.VtepDevIndex != 0:
		return fmt.Sprintf("dev if%d", v.VtepDevIndex)
	case v.MasterIndex != 0:
		return fmt.Sprintf("master if%d", v.MasterIndex)
	case v.FlowBased:
		return "external"
	case v.Proxy:
		return "proxy"
	case v.RSC:
		return "rsc"
	case v.GBP:
		return "gbp"
	case v.TTL != 0: // a router drops packets with a low one
		return fmt.Sprintf("ttl %d", v.TTL)
	case v.UDP6ZeroCSumTx: // peers drop such packets (RFC 6936)
		return "udp6zerocsumtx"
	case v.UDP6ZeroCSumRx:
		return "udp6zerocsumrx"
	case !v.UDPCSum:
		return "noudpcsum"
	}
	return ""
}

// lostMark returns a link as a tunnel of ours that another program took the mark from: the same device
// was one before.
func (k *Kernel) lostMark(l rtnl.Link) (topology.Tunnel, bool) {
	v, ok := l.(*rtnl.Vxlan)
	if !ok || k.links == nil {
		return topology.Tunnel{}, false
	}
	marked := *v
	marked.Alias = topology.TunnelAlias
	was, known := k.links.tunnels[v.Index]
	t, _ := tunnelOf(&marked)
	t.Unmarked = true
	return t, known && t.VNI == was.VNI && t.MAC == was.MAC
}

// tunnelList returns our tunnels, sorted.
func (f *linkFacts) tunnelList() []topology.Tunnel {
	return slices.SortedFunc(maps.Values(f.tunnels), topology.Tunnel.Compare)
}

// addEnd keeps an address of a tunnel. The link-local ones are the kernel's.
func (f *linkFacts) addEnd(a rtnl.Addr) {
	t, ours := f.tunnels[a.LinkIndex]
	ip, ok := netip.AddrFromSlice(a.IP)
	if bits, _ := a.Mask.Size(); ours && ok && !ip.IsLinkLocalUnicast() {
		f.ends = append(f.ends, topology.Address{Dev: t.Name, Prefix: netip.PrefixFrom(ip.Unmap(), bits)})
	}
}

// errUnfiltered is returned for a tunnel that is not added because the table that filters it
// failed.
var errUnfiltered = errors.New("the tunnel is not made, because the nftables table that filters it can't be written")

// putTunnel adds or changes a tunnel. All that is on it is lost if it is recreated.
func (k *Kernel) putTunnel(t plan.Tunnel) (err error) {
	k.fresh.routes, k.fresh.peers = false, false
	if t.Recreates() {
		err = k.deleteTunnel(t.Was.Name)
	}
	switch {
	case err != nil:
	case t.Was.Name != "" && !t.Recreates():
		err = k.setTunnel(t.Tunnel)
	default:
		err = k.addTunnel(t.Tunnel)
	}
	if err != nil {
		return fmt.Errorf("making tunnel %s: %w", t.Name, err)
	}
	return nil
}

// unmarkedTunnel names a tunnel until it has our mark. The kernel takes no alias together with a
// new device, so without this an agent that is killed in between would leave a device with a
// tunnel's name that looks like another program's.
const unmarkedTunnel = "plainroute-new"

// removeUnmarked deletes what an interrupted addTunnel left.
func (k *Kernel) removeUnmarked() error {
	link, err := k.handle.LinkByName(unmarkedTunnel)
	switch {
	case errors.As(err, new(rtnl.LinkNotFoundError)):
		return nil
	case err == nil && link.Type() == topology.KindVXLAN:
		err = k.handle.LinkDel(link)
	case err == nil:
		err = fmt.Errorf("the device %s is of another kind, %s", unmarkedTunnel, kindOf(link))
	}
	return err
}

// addTunnel adds a device, marks it, and sets it up. The port is bound only then, and a port of
// another socket is an error of that step (vxlan_open of drivers/net/vxlan/vxlan_core.c).
func (k *Kernel) addTunnel(t topology.Tunnel) error {
	if err := k.removeUnmarked(); err != nil {
		return err
	}
	attrs := rtnl.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = unmarkedTunnel, t.MTU, t.MAC[:]
	err := k.handle.LinkAdd(&rtnl.Vxlan{LinkAttrs: attrs, VxlanId: t.VNI, SrcAddr: t.Local.AsSlice(), Port: t.Port, UDPCSum: true})
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: another VXLAN device has VNI %d and UDP port %d", err, t.VNI, t.Port)
	}
	if err != nil {
		return err
	}
	link, err := k.handle.LinkByName(unmarkedTunnel)
	if err != nil {
		return err
	}
	if err := k.handle.LinkSetAlias(link, topology.TunnelAlias); err != nil {
		return errors.Join(err, k.handle.LinkDel(link))
	}
	if err := k.handle.LinkSetName(link, t.Name); err != nil {
		return errors.Join(fmt.Errorf("naming it: %w", err), k.handle.LinkDel(link))
	}
	k.links.note(link.Attrs().Index, linkIdent{name: t.Name, mtu: t.MTU}, false)
	return k.setTunnelUp(link, t)
}

func (k *Kernel) setTunnelUp(link rtnl.Link, t topology.Tunnel) error {
	err := k.handle.LinkSetUp(link)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w: another program or VXLAN device has UDP port %d; choose one with --vxlan-port on all nodes", err, t.Port)
	}
	return err
}

// errForeignTunnel is returned for a device that is not a tunnel of ours, although it has the name of one.
var errForeignTunnel = errors.New("the device belongs to another program")

// ownTunnel returns a tunnel of ours. It restores the mark of one that lost it.
func (k *Kernel) ownTunnel(name string) (link rtnl.Link, t topology.Tunnel, err error) {
	if link, err = k.handle.LinkByName(name); err != nil {
		return nil, t, err
	}
	t, ours := tunnelOf(link)
	if ours {
		return link, t, nil
	}
	if t, ours = k.lostMark(link); !ours {
		return nil, t, errForeignTunnel
	}
	return link, t, k.handle.LinkSetAlias(link, topology.TunnelAlias)
}

// setTunnel changes what the kernel can change in place.
func (k *Kernel) setTunnel(t topology.Tunnel) error {
	link, have, err := k.ownTunnel(t.Name)
	if err != nil {
		return err
	}
	if have.Local != t.Local {
		local := request{kind: unix.RTM_NEWLINK, data: encodeLocal(link.Attrs().Index, t)}
		if err := errors.Join(errors.Join(k.rtnetlink.acknowledge([]request{local})...), k.renewEntries(t.Name)); err != nil {
			return fmt.Errorf("setting the local address: %w", err)
		}
	}
	if link.Attrs().HardwareAddr.String() != t.MAC.String() {
		if err := k.handle.LinkSetHardwareAddr(link, t.MAC[:]); err != nil {
			return err
		}
	}
	if link.Attrs().MTU != t.MTU {
		if err := k.handle.LinkSetMTU(link, t.MTU); err != nil {
			return err
		}
	}
	return k.setTunnelUp(link, t)
}

// renewEntries deletes and adds each FDB entry of a tunnel, because the kernel keeps the former
// source address of its packets as well (udp_tunnel6_dst_lookup of net/ipv6/ip6_udp_tunnel.c, by
// dst_cache).
func (k *Kernel) renewEntries(dev string) (err error) {
	var requests []request
	for _, e := range k.peers.fdb {
		if e.Dev == dev {
			data := k.encodePeer(plan.FDBEntry{FDBEntry: e})
			requests = append(requests, request{unix.RTM_DELNEIGH, 0, data}, request{unix.RTM_NEWNEIGH, unix.NLM_F_CREATE, data})
		}
	}
	for batch := range slices.Chunk(requests, perSend) {
		err = errors.Join(append(k.rtnetlink.acknowledge(batch), err)...)
	}
	return err
}

// encodeLocal returns struct ifinfomsg and the attributes that change a tunnel's own address. The
// kernel refuses a change that names the port, even the same one (vxlan_nl2conf), so the netlink
// library's LinkModify can't make it.
func encodeLocal(index int, t topology.Tunnel) []byte {
	kind := uint16(unix.IFLA_VXLAN_LOCAL)
	if t.Local.Is6() {
		kind = unix.IFLA_VXLAN_LOCAL6
	}
	data := appendAttribute(appendNumber(nil, unix.IFLA_VXLAN_ID, t.VNI), kind, t.Local.AsSlice())
	info := appendAttribute(nil, unix.IFLA_INFO_KIND, []byte("vxlan\x00\x00\x00"))
	info = appendAttribute(info, unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, data)
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return appendAttribute(b, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, info)
}

// deleteTunnel deletes a tunnel of ours, if it is still there.
func (k *Kernel) deleteTunnel(name string) error {
	link, _, err := k.ownTunnel(name)
	switch {
	case errors.As(err, new(rtnl.LinkNotFoundError)), errors.Is(err, errForeignTunnel):
		return nil
	case err != nil:
		return err
	}
	if err := k.handle.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// peerFacts are the permanent neighbors and FDB entries of our tunnels, sorted.
type peerFacts struct {
	neighbors []topology.Neighbor
	fdb       []topology.FDBEntry
	followed  int  // the number of changes by notifications since they were read
	shown     bool // they are in a result of Observe
}

// loadPeers reads what is on our tunnels. Notifications of neighbors, of which a busy LAN causes
// many that concern no tunnel, are subscribed to once there is a tunnel.
func (k *Kernel) loadPeers() error {
	if len(k.links.tunnels) > 0 && !k.watched {
		if err := k.events[0].JoinGroup(unix.RTNLGRP_NEIGH); err != nil && !errors.Is(err, unix.EPERM) { // as in listenTo
			return fmt.Errorf("joining notifications of neighbors: %w", err)
		}
		k.watched = true
	}
	facts, err := RetryDump(k.readPeers)
	if err != nil {
		return fmt.Errorf("listing the peers of tunnels: %w", err)
	}
	k.peers, k.fresh.peers = facts, true
	return nil
}

func (k *Kernel) readPeers() (facts peerFacts, err error) {
	if len(k.links.tunnels) > 0 {
		facts.neighbors = make([]topology.Neighbor, 0, len(k.peers.neighbors)+max(worthKeeping, k.bulk))
		facts.fdb = make([]topology.FDBEntry, 0, len(k.peers.fdb)+max(worthKeeping, k.bulk))
	}
	for index, t := range k.links.tunnels {
		err = errors.Join(err, k.eachNeighbor(addressFamily(t.Local), unix.NDA_IFINDEX, index, func(n neighbor) {
			if entry, ok := n.permanent(t.Name); ok {
				facts.neighbors = append(facts.neighbors, entry)
			}
		}), k.eachNeighbor(unix.AF_BRIDGE, unix.NDA_IFINDEX, index, func(n neighbor) {
			if entry, ok := n.fdbEntry(t.Name); ok {
				facts.fdb = append(facts.fdb, entry)
			}
		}))
	}
	slices.SortFunc(facts.neighbors, topology.Neighbor.Compare)
	slices.SortFunc(facts.fdb, topology.FDBEntry.Compare)
	return facts, err
}

// addressFamily returns the address family of an address.
func addressFamily(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// permanent returns an entry of the neighbor table that the kernel did not make itself.
func (n neighbor) permanent(dev string) (entry topology.Neighbor, ok bool) {
	entry.Dev = dev
	entry.Addr, ok = netip.AddrFromSlice(n.addr)
	copy(entry.MAC[:], n.mac)
	return entry, ok && n.state&unix.NUD_PERMANENT != 0
}

// fdbEntry returns an entry of a VXLAN device's own table. One with a port, VNI or link of its own
// has no Dst, so that it differs from each of ours.
func (n neighbor) fdbEntry(dev string) (entry topology.FDBEntry, ok bool) {
	entry.Dev = dev
	copy(entry.MAC[:], n.mac)
	if !n.diverted {
		entry.Dst, _ = netip.AddrFromSlice(n.addr)
	}
	return entry, n.flags&unix.NTF_SELF != 0
}

// learnPeer reports whether a notification of a neighbor or FDB entry on a tunnel differs from what
// is kept, which then follows or becomes stale. Those of all other devices, of which there may be
// thousands, are ignored first, then those that readPeers leaves out. Before it deletes a device the kernel announces the deletion of all
// that is on it; the device's own notification follows.
func (k *Kernel) learnPeer(m netlink.Message) bool {
	if len(m.Data) < unix.SizeofNdMsg || k.links == nil {
		return false
	}
	index, deleted := int(int32(number(m.Data[4:]))), m.Header.Type == unix.RTM_DELNEIGH
	t, ours := k.links.tunnels[index]
	if !ours {
		return false
	}
	n := parseNeighbor(m.Data)
	if n.family != unix.AF_BRIDGE && n.family != addressFamily(t.Local) || k.fresh.peers && k.agrees(n, t.Name, deleted) {
		return false
	}
	if deleted && k.gone(index) {
		delete(k.links.tunnels, index)
		k.fresh.routes, k.fresh.peers = false, false
		return false
	}
	k.fresh.peers = k.fresh.peers && k.peers.follow(n, t.Name, deleted)
	return true
}

// follow changes what is kept as a notification says, and reports whether that is certain: the key
// has one entry. A MAC address of a group, or the zero one, may have several in an FDB
// (vxlan_fdb_update_existing of drivers/net/vxlan/vxlan_core.c). After many changes a read is cheaper.
func (f *peerFacts) follow(n neighbor, dev string, deleted bool) bool {
	c := plan.Change{Op: plan.Replace}
	certain := true
	if n.family == unix.AF_BRIDGE {
		entry, _ := n.fdbEntry(dev)
		c.Object, certain = plan.FDBEntry{FDBEntry: entry}, entry.MAC[0]&1 == 0 && entry.MAC != topology.MAC{}
	} else {
		entry, permanent := n.permanent(dev)
		c.Object, deleted = plan.Neighbor{Neighbor: entry}, deleted || !permanent
	}
	if !certain || f.followed == worthKeeping {
		return false
	}
	if deleted {
		c.Op = plan.Delete
	}
	if f.shown {
		f.neighbors, f.fdb, f.shown = slices.Clone(f.neighbors), slices.Clone(f.fdb), false
	}
	f.followed++
	f.note(c)
	return true
}

// agrees reports whether what is kept of a tunnel's peers agrees with a notification.
func (k *Kernel) agrees(n neighbor, dev string, deleted bool) bool {
	if n.family == unix.AF_BRIDGE {
		entry, ok := n.fdbEntry(dev)
		return !ok || holds(k.peers.fdb, entry, deleted, topology.FDBEntry.Compare)
	}
	entry, permanent := n.permanent(dev)
	return holds(k.peers.neighbors, entry, deleted || !permanent, topology.Neighbor.Compare)
}

// holds reports whether a sorted list agrees with a notification.
func holds[T comparable](all []T, x T, deleted bool, compare func(T, T) int) bool {
	i, found := slices.BinarySearchFunc(all, x, compare)
	if deleted {
		return !found
	}
	return found && all[i] == x
}

// changePeers writes neighbors or FDB entries, 128 at a time, and updates what is kept.
func (k *Kernel) changePeers(op plan.Op, step plan.Changes) error {
	kind, flags := uint16(unix.RTM_NEWNEIGH), uint16(unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if op == plan.Delete {
		kind, flags = unix.RTM_DELNEIGH, 0
	}
	var errs []error
	for batch := range slices.Chunk(step, perSend) {
		requests := make([]request, len(batch))
		for i, c := range batch {
			requests[i] = request{kind, flags, k.encodePeer(c.Object)}
		}
		for i, err := range k.rtnetlink.acknowledge(requests) {
			switch {
			case err == nil, op == plan.Delete && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)):
				if len(step) <= worthKeeping {
					k.peers.note(batch[i])
				}
			default:
				errs = append(errs, part(batch[i].Object, fmt.Errorf("%s: %w", batch[i], err)))
			}
		}
	}
	if len(step) > worthKeeping {
		k.fresh.peers, k.bulk = false, len(step)
	}
	return errors.Join(errs...)
}

// note updates what is kept by a change.
func (f *peerFacts) note(c plan.Change) {
	switch o := c.Object.(type) {
	case plan.Neighbor:
		f.neighbors = noted(f.neighbors, o.Neighbor, c.Op, topology.Neighbor.Compare)
	case plan.FDBEntry:
		f.fdb = noted(f.fdb, o.FDBEntry, c.Op, topology.FDBEntry.Compare)
	}
}

func noted[T any](all []T, x T, op plan.Op, compare func(T, T) int) []T {
	i, found := slices.BinarySearchFunc(all, x, compare)
	switch {
	case found && op == plan.Delete:
		return slices.Delete(all, i, i+1)
	case found:
		all[i] = x
	case op != plan.Delete:
		return slices.Insert(all, i, x)
	}
	return all
}

// encodePeer returns struct ndmsg and its attributes (rtnetlink(7)). The kernel refuses index 0, of
// a device that is gone.
func (k *Kernel) encodePeer(o plan.Object) []byte {
	var dev string
	var mac topology.MAC
	var dst netip.Addr
	family, flags := uint8(unix.AF_BRIDGE), uint8(unix.NTF_SELF)
	switch o := o.(type) {
	case plan.FDBEntry:
		dev, mac, dst = o.Dev, o.MAC, o.Dst
	case plan.Neighbor:
		dev, mac, dst, family, flags = o.Dev, o.MAC, o.Addr, addressFamily(o.Addr), 0
	}
	b := neighborMessage(family, k.links.byName[dev])
	binary.NativeEndian.PutUint16(b[8:], unix.NUD_PERMANENT)
	b[10] = flags
	if dst.IsValid() {
		b = appendAttribute(b, unix.NDA_DST, dst.AsSlice())
	}
	return append(appendAttribute(b, unix.NDA_LLADDR, mac[:]), 0, 0) // RTA_ALIGN
}

// ofTunnel reports whether a device is a tunnel of ours. Each change of one is news: its settings
// are not kept by link.
func (k *Kernel) ofTunnel(index int) bool {
	_, ours := k.links.tunnels[index]
	return ours
}
