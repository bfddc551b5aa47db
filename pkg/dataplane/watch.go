package dataplane

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// routeGroups returns the notification groups of rtnetlink(7) that matter here. Routes are not
// filtered by our protocol, because the notification of an overwritten route has only the foreign
// one. RTM_NEWNETCONF announces forwarding. Policy rules matter to a table other than main.
func routeGroups(rules bool) []uint32 {
	groups := []uint32{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NEXTHOP,
	}
	if rules {
		groups = append(groups, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	}
	return groups
}

// Watch calls notify when another program has changed anything that a pass depends on. Each resync
// it notifies too, because the kernel does not announce a few settings. It returns when ctx ends,
// or with an error when there is nothing left to watch; a Kernel can be watched once.
func (k *Kernel) Watch(ctx context.Context, resync time.Duration, notify func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var done sync.WaitGroup
	events := slices.Clone(k.events)
	listen := func(c *netlink.Conn) { done.Go(func() { cancel(k.listen(c, notify)) }) }
	for _, c := range events {
		listen(c)
	}
	done.Go(func() {
		if err := k.cfg.CNI.Watch(ctx, notify, func(err error) { k.setBlind(err, notify) }); err != nil {
			cancel(err)
		}
	})
	audit := time.NewTicker(resync)
	defer audit.Stop()
	k.portLeft() // a port may have left before
	for ctx.Err() == nil {
		select {
		case <-audit.C:
			k.Forget()
			notify()
		case c := <-k.newEvents: // of nftables, at once or when a module adds it
			events = append(events, c)
			listen(c)
		case <-k.left:
			// A failure is ignored: the next port that leaves triggers another try, and meanwhile
			// the kernel removes the neighbors by itself.
			_ = k.dropNeighbors()
		case <-ctx.Done():
		}
	}
	for _, c := range events {
		// This ends the reads. Close closes the sockets.
		_ = c.SetReadDeadline(time.Unix(1, 0))
	}
	done.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// LinkChanges counts the links that were added or deleted, or more. It counts while Watch runs.
func (k *Kernel) LinkChanges() uint64 { return k.linkChanges.Load() }

// setBlind remembers the error of watching folders, nil if there is none, and notifies if it
// changed.
func (k *Kernel) setBlind(err error, notify func()) {
	k.mu.Lock()
	news := fmt.Sprint(err) != fmt.Sprint(k.blind)
	k.blind = err
	k.mu.Unlock()
	if news {
		notify()
	}
}

// listen reads notifications until the socket's deadline. It uses one buffer, because a routing
// daemon may cause thousands of them a second.
func (k *Kernel) listen(c *netlink.Conn, notify func()) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("reading notifications: %w", err)
	}
	buffer := make([]byte, readBuffer)
	for {
		var news bool
		ended := raw.Read(func(fd uintptr) (came bool) {
			k.mu.Lock() // a notification is learned before anything later is read
			defer k.mu.Unlock()
			came, news, err = k.receive(int(fd), buffer)
			return came || err != nil
		})
		if err := cmp.Or(ended, err); err != nil {
			return fmt.Errorf("reading notifications: %w", err)
		}
		if news {
			notify()
		}
	}
}

// perReceive is how many datagrams are read while others wait for the lock.
const perReceive = 128

// receive learns from queued notifications, and reports whether any came, and whether what is kept
// has changed.
func (k *Kernel) receive(fd int, buffer []byte) (came, news bool, err error) {
	for range perReceive {
		n, err := unix.Read(fd, buffer) // unlike Recvfrom it allocates nothing
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return came, news, nil
		case errors.Is(err, unix.ENOBUFS), n == len(buffer):
			// Notifications were lost, so all that is kept may be stale.
			k.forget()
			k.portLeft()
			k.linkChanges.Add(1)
			news = true
		case err != nil:
			return came, news, err
		default:
			eachMessage(buffer[:n], func(m netlink.Message) { news = k.learnOne(m) || news })
		}
		came = true
	}
	return came, news, nil
}

// catchUp learns from the notifications that have come, so that what is kept is as the kernel has
// it now.
func (k *Kernel) catchUp() {
	if k.buffer == nil {
		k.buffer = make([]byte, readBuffer)
	}
	for _, c := range k.events {
		raw, err := c.SyscallConn()
		for came := true; came && err == nil; {
			// Unlike Read it does not wait for listen. An error of the socket ends that.
			err = raw.Control(func(fd uintptr) { came, _, _ = k.receive(int(fd), k.buffer) })
		}
	}
}

func (k *Kernel) learnOne(m netlink.Message) bool {
	if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
		if k.nftConn != nil && m.Header.PID == k.nftConn.PID() || !ofOurTable(m.Data) {
			return false
		}
		k.fresh.masquerade = false
		return true
	}
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return k.learnRoute(m)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return k.learnLink(m)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return k.learnPeer(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return k.learnAddr(m)
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		return k.learnObject(m)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		k.fresh.routes = false
		return true
	case unix.RTM_NEWNETCONF:
		return k.learnSysctl(m)
	}
	return false
}

// learnLink ignores the ports of the bridge, which come and go with pods, except for their names,
// and messages without a change that affects routes, such as the bridge's for each of its ports.
func (k *Kernel) learnLink(m netlink.Message) bool {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return false
	}
	if m.Data[0] == unix.AF_BRIDGE {
		if k.leaves(m) {
			k.portLeft()
		}
		return false
	}
	index, now, kind := parseLink(m.Data)
	deleted := m.Header.Type == unix.RTM_DELLINK
	if k.links != nil && k.ofTunnel(index) {
		k.fresh.routes, k.fresh.peers = false, false
		return true
	}
	if deleted || k.links == nil || k.links.idents[index].name == "" {
		k.linkChanges.Add(1)
	}
	if k.links != nil {
		k.links.see(index, now, deleted, k.cfg.Bridge)
	}
	if !k.fresh.routes {
		return true
	}
	was, news := k.links.idents[index], false
	switch {
	case !deleted && now == was:
	case k.links.matters(index), deleted && k.links.pods[index].IsValid():
		news = true
	case deleted:
	case now.name == k.cfg.Bridge, k.advertised[now.name], now.master == 0 && !topology.FacesGuests(kind):
		news = true
	default:
		news = k.cutOff(index, was, now)
	}
	if !news {
		k.links.note(index, now, deleted)
		return false
	}
	k.fresh.routes = false
	return true
}

// cutOff reports whether a port of a pod was set down, taken out of the bridge or put into another.
// The kernel sends the same for a port that it is about to delete, and deletes it before it answers
// a request.
func (k *Kernel) cutOff(index int, was, now linkIdent) bool {
	bridge, there := k.links.byName[k.cfg.Bridge]
	port := there && was.master == bridge
	if !port && !k.links.pods[index].IsValid() || port && now.master == was.master && now.up {
		return false
	}
	return !k.gone(index)
}

func (k *Kernel) gone(index int) bool {
	_, err := k.handle.LinkByIndex(index)
	return errors.As(err, new(rtnl.LinkNotFoundError)) || errors.Is(err, unix.ENODEV)
}

// parseLink parses struct ifinfomsg and its attributes (linux/if_link.h).
func parseLink(b []byte) (index int, id linkIdent, kind string) {
	index, kind = int(int32(binary.NativeEndian.Uint32(b[4:]))), "device"
	flags := binary.NativeEndian.Uint32(b[8:])
	b = b[unix.SizeofIfInfomsg:]
	id.name, id.mac = unix.ByteSliceToString(attribute(b, unix.IFLA_IFNAME)), string(attribute(b, unix.IFLA_ADDRESS))
	id.mtu, id.master = int(number(attribute(b, unix.IFLA_MTU))), int(number(attribute(b, unix.IFLA_MASTER)))
	if value := attribute(attribute(b, unix.IFLA_LINKINFO), unix.IFLA_INFO_KIND); value != nil {
		kind = unix.ByteSliceToString(value)
	}
	id.flags(flags, kind)
	return index, id, kind
}

// learnAddr ignores the link-local addresses that the kernel assigns to the bridge and its ports.
func (k *Kernel) learnAddr(m netlink.Message) bool {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return false
	}
	addr, _ := netip.AddrFromSlice(attribute(m.Data[unix.SizeofIfAddrmsg:], unix.IFA_ADDRESS))
	if addr.Is6() && addr.IsLinkLocalUnicast() && !k.ofBridge(m) {
		return false
	}
	k.fresh.routes = false
	return true
}

// ofBridge reports whether a notification means that the bridge has lost an address.
func (k *Kernel) ofBridge(m netlink.Message) bool {
	if k.links == nil || m.Header.Type != unix.RTM_DELADDR {
		return false
	}
	index, there := k.links.byName[k.cfg.Bridge]
	return there && int(number(m.Data[4:])) == index
}

// Constants of linux/netconf.h, which x/sys/unix lacks.
const (
	netconfIndex      = 1
	netconfForwarding = 2
	netconfRPFilter   = 3
	netconfAll        = -1
)

// learnSysctl compares the announced settings that are kept, forwarding and rp_filter, with their kept
// values, because most of these messages (struct netconfmsg, linux/netconf.h) come with a pod's port.
func (k *Kernel) learnSysctl(m netlink.Message) bool {
	const header = 4 // struct netconfmsg: the family, padded
	if !k.fresh.routes || !k.fresh.sysctls || len(m.Data) < header {
		return !k.fresh.sysctls
	}
	family, attributes := m.Data[0], m.Data[header:]
	index := int(int32(number(attribute(attributes, netconfIndex))))
	differs := func(kind uint16, path string) bool {
		value := attribute(attributes, kind)
		known, kept := k.sysctls[path]
		return kept && value != nil && strconv.Itoa(int(int32(number(value)))) != known
	}
	news := differs(netconfForwarding, k.forwardingPath(family, index)) || family == unix.AF_INET && differs(netconfRPFilter, k.filterPath(index))
	k.fresh.sysctls = !news
	return news
}

// filterPath returns the setting rp_filter of an index.
func (k *Kernel) filterPath(index int) string {
	if index == netconfAll {
		return topology.ConfSysctl(4, "all", "rp_filter")
	}
	return topology.ConfSysctl(4, k.links.name(index), "rp_filter")
}

// forwardingPath returns the setting that a notification of an index is about.
func (k *Kernel) forwardingPath(family uint8, index int) string {
	switch {
	case family == unix.AF_INET && index == netconfAll:
		return topology.SysctlForward4
	case family == unix.AF_INET6 && index == netconfAll:
		return topology.SysctlForward6
	case family == unix.AF_INET:
		return topology.ConfSysctl(4, k.links.name(index), "forwarding")
	}
	return topology.ConfSysctl(6, k.links.name(index), "forwarding")
}

// ofOurTable reports whether a message has our table's name, attribute 1 of every message of
// nf_tables but those of generations (linux/netfilter/nf_tables.h).
func ofOurTable(data []byte) bool {
	return len(data) >= nfgenmsg && data[0] == unix.NFPROTO_INET &&
		unix.ByteSliceToString(attribute(data[nfgenmsg:], unix.NFTA_TABLE_NAME)) == topology.Table
}
