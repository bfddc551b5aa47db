package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

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
// thousands, are ignored first, then those that readPeers leaves out. Before it deletes a device
// the kernel announces the deletion of all that is on it; the device's own notification follows.
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
