package dataplane

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// subscribe opens the sockets of notifications before anything is read, so that
// no change falls between. Routes are not filtered by our protocol: one that is
// overwritten shows only the foreign one. RTM_NEWNETCONF tells of forwarding.
func (k *Kernel) subscribe() error {
	sockets := map[int][]uint32{
		unix.NETLINK_ROUTE: {
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
			unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NEXTHOP,
		},
		unix.NETLINK_NETFILTER: {unix.NFNLGRP_NFTABLES},
	}
	for protocol, groups := range sockets {
		c, err := netlink.Dial(protocol, nil)
		if err != nil {
			return err
		}
		k.events = append(k.events, c)
		if err := c.SetReadBuffer(receiveBuffer); err != nil {
			return err
		}
		for _, group := range groups {
			if err := c.JoinGroup(group); err != nil {
				return fmt.Errorf("joining notifications %d: %w", group, err)
			}
		}
	}
	return nil
}

// Watch calls notify when somebody else changed what a pass depends on, and each
// resync for the few settings that the kernel does not announce. It returns when
// ctx ends, and Kernel can't be watched again.
func (k *Kernel) Watch(ctx context.Context, resync time.Duration, notify func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var done sync.WaitGroup
	for _, c := range k.events {
		done.Go(func() { cancel(k.listen(c, notify)) })
	}
	audit := time.NewTicker(resync)
	defer audit.Stop()
	for ctx.Err() == nil {
		select {
		case <-audit.C:
			k.Forget()
			notify()
		case <-ctx.Done():
		}
	}
	for _, c := range k.events {
		// Ends the reads. The sockets are closed by Close.
		_ = c.SetReadDeadline(time.Unix(1, 0))
	}
	done.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// listen reads notifications until the socket's deadline.
func (k *Kernel) listen(c *netlink.Conn, notify func()) error {
	for {
		msgs, err := c.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// Notifications were lost: nothing that is kept can be trusted.
			k.Forget()
			notify()
		case err != nil:
			return fmt.Errorf("reading notifications: %w", err)
		case k.learn(msgs):
			notify()
		}
	}
}

// learn drops what the messages make doubtful, and tells whether they did.
func (k *Kernel) learn(msgs []netlink.Message) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	news := false
	for _, m := range msgs {
		if k.learnOne(m) {
			news = true
		}
	}
	return news
}

func (k *Kernel) learnOne(m netlink.Message) bool {
	if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
		if m.Header.PID == k.nftPID || !ofOurTable(m.Data) {
			return false
		}
		k.masquerade = nil
		return true
	}
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return k.learnRoute(m)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return k.learnLink(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return k.learnAddr(m)
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		k.routes = nil
		return true
	case unix.RTM_NEWNETCONF:
		return k.learnSysctl()
	}
	return false
}

func (k *Kernel) learnRoute(m netlink.Message) bool {
	route, ok := parseRoute(m.Data)
	if !ok {
		return false
	}
	if k.routes != nil && k.links != nil && route.mine() && k.holds(route, m.Header.Type == unix.RTM_DELROUTE) {
		return false
	}
	k.routes = nil
	return true
}

// learnLink leaves out the ports of the bridge, which come and go with pods, but
// for their names.
func (k *Kernel) learnLink(m netlink.Message) bool {
	if k.links == nil || len(m.Data) < unix.SizeofIfInfomsg {
		return k.links == nil
	}
	index := int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
	if !k.links.matters(index) {
		k.links.rename(index, linkName(m.Data[unix.SizeofIfInfomsg:]), m.Header.Type == unix.RTM_DELLINK)
		return false
	}
	k.links, k.routes = nil, nil
	return true
}

func linkName(attributes []byte) string {
	attrs, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return ""
	}
	for attrs.Next() {
		if attrs.Type() == unix.IFLA_IFNAME {
			return attrs.String()
		}
	}
	return ""
}

// learnAddr leaves out the link-local addresses that ports of the bridge get.
func (k *Kernel) learnAddr(m netlink.Message) bool {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return false
	}
	attrs, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfAddrmsg:])
	if err != nil {
		return false
	}
	for attrs.Next() {
		if attrs.Type() != unix.IFA_ADDRESS {
			continue
		}
		if addr, ok := netip.AddrFromSlice(attrs.Bytes()); ok && addr.Is6() && addr.IsLinkLocalUnicast() {
			return false
		}
	}
	k.links, k.routes = nil, nil
	return true
}

// learnSysctl reads the settings again: most of these notifications come with a
// pod's port, or are our own echo.
func (k *Kernel) learnSysctl() bool {
	if k.links == nil || k.sysctls == nil {
		return true
	}
	before := k.sysctls
	k.loadSysctls()
	for path, value := range before {
		if k.sysctls[path] != value {
			return true
		}
	}
	return false
}

// ofOurTable looks for our table's name, attribute 1 of every message of
// nf_tables but those of generations (linux/netfilter/nf_tables.h).
func ofOurTable(data []byte) bool {
	const header = 4 // struct nfgenmsg
	if len(data) < header || data[0] != unix.NFPROTO_INET {
		return false
	}
	attrs, err := netlink.NewAttributeDecoder(data[header:])
	if err != nil {
		return false
	}
	for attrs.Next() {
		if attrs.Type() == unix.NFTA_TABLE_NAME {
			return bytes.Equal(bytes.TrimRight(attrs.Bytes(), "\x00"), []byte(topology.Table))
		}
	}
	return false
}
