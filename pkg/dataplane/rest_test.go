package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// Where nothing changes, nothing is written: no audit, however often, makes the kernel announce
// anything.
func TestAtRestNothingIsWritten(t *testing.T) {
	m := newMachine(t)
	all := nodes(4)
	m.settle(all)
	m.awaitCarriers()
	monitors := m.monitors()
	const audits = 50
	for range audits {
		m.Forget()
		if c := m.pass(all); !c.Empty() {
			t.Fatalf("an audit finds something to do: %+v", c)
		}
	}
	if types := m.announced(monitors); len(types) > 0 {
		t.Errorf("%d messages, of types %v", len(types), types)
	}
	// Monitors that receive nothing would prove nothing.
	m.must(m.nl.LinkSetMTU(m.eth0, 1400))
	if types := m.announced(monitors); len(types) == 0 {
		t.Error("a change of a link is not announced to the monitors")
	}
}

// awaitCarriers waits until the kernel has announced what it found out about the carriers of all
// links, which it does by and by (net/core/link_watch.c).
func (m *machine) awaitCarriers() {
	m.t.Helper()
	unknown := func(l rtnl.Link) bool {
		return l.Attrs().Flags&net.FlagLoopback == 0 && l.Attrs().OperState == rtnl.OperUnknown
	}
	testutil.AwaitWithin(m.t, testutil.Limit, shortly, func() error {
		links, err := m.nl.LinkList()
		m.must(err)
		if slices.ContainsFunc(links, unknown) {
			return fmt.Errorf("the carriers are not known: %v", links)
		}
		return nil
	})
}

// monitors opens a socket for each protocol of Watch, with all of its groups.
func (m *machine) monitors() []int {
	m.t.Helper()
	var sockets []int
	for protocol, groups := range map[int][]uint32{unix.NETLINK_ROUTE: routeGroups(true), unix.NETLINK_NETFILTER: {unix.NFNLGRP_NFTABLES}} {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		m.must(err)
		m.t.Cleanup(func() { m.must(unix.Close(fd)) })
		m.must(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
		for _, group := range groups {
			m.must(unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group)))
		}
		sockets = append(sockets, fd)
	}
	return sockets
}

// announced returns the types of the messages that have come since. The kernel announces what is
// written before the write ends, so there is nothing to wait for.
func (m *machine) announced(monitors []int) []uint16 {
	m.t.Helper()
	var types []uint16
	b := make([]byte, readBuffer)
	for _, fd := range monitors {
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			m.must(err)
			if n >= unix.SizeofNlMsghdr {
				types = append(types, binary.NativeEndian.Uint16(b[4:])) // the first of each, struct nlmsghdr
			}
		}
	}
	return types
}
