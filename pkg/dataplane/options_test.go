package dataplane

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/seccomp"
)

// A socket holds as many answers as the kernel lets it, and has dumps filtered where the kernel
// knows how. Without CAP_NET_ADMIN the limit is net.core.rmem_max.
func TestOptionsOfSockets(t *testing.T) {
	m := newMachine(t)
	limit := receiveBuffer
	if b, err := os.ReadFile("/proc/sys/net/core/rmem_max"); err == nil {
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		m.must(err)
		limit = min(limit, n)
	}
	check := func(want int, who string) {
		t.Helper()
		s := newSocket(m.namespace, unix.NETLINK_ROUTE)
		m.must(s.open())
		have, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		m.must(err)
		strict, err := unix.GetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK)
		m.must(err)
		if have != 2*want || strict != 1 { // socket(7): the kernel doubles it
			t.Errorf("%s: room for %d bytes, want %d; dumps are filtered: %d", who, have, 2*want, strict)
		}
		m.must(s.close())
		m.must(s.close()) // which was closed already
		if s.fd != closed {
			t.Errorf("%s: closed, it is %d still", who, s.fd)
		}
	}
	check(receiveBuffer, "with CAP_NET_ADMIN")
	withoutNetAdmin(t)
	limited := newSocket(m.namespace, unix.NETLINK_ROUTE)
	if m.must(limited.open()); limited.fd == closed {
		t.Error("without CAP_NET_ADMIN there is no socket")
	}
	m.must(limited.close())
	check(limit, "without CAP_NET_ADMIN")
	_, err := listenTo(unix.NETLINK_ROUTE, 1000)
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "joining notifications 1000: ") {
		t.Errorf("a group that is none: %v", err)
	}
	c, err := listenTo(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_MROUTE_R) // which takes CAP_NET_ADMIN (rtnetlink_bind)
	m.must(err)
	m.must(c.Close())
}

// A socket whose options are refused is not used, and not left open. That limit alone does not fail
// it.
func TestRefusedOptionsOfSockets(t *testing.T) {
	m := newMachine(t)
	before := m.descriptors()
	for _, c := range []struct {
		protocol      int
		level, option uint32
		refused       bool
	}{
		{unix.NETLINK_ROUTE, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, true},
		{unix.NETLINK_NETFILTER, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, false},
		{unix.NETLINK_NETFILTER, unix.SOL_SOCKET, unix.SO_RCVBUF, true},
	} {
		seccomp.RefuseCalls(t, unix.ENOPROTOOPT, unix.SYS_SETSOCKOPT, map[int]uint32{1: c.level, 2: c.option})
		s := newSocket(m.namespace, c.protocol)
		err := s.open()
		if errors.Is(err, unix.ENOPROTOOPT) != c.refused || c.refused && !strings.HasPrefix(err.Error(), "opening netlink: ") || c.refused != (s.fd == closed) {
			t.Errorf("option %d was refused, and the error is %v", c.option, err)
		}
		m.must(s.close())
	}
	if _, err := listenTo(unix.NETLINK_ROUTE); !errors.Is(err, unix.ENOPROTOOPT) {
		t.Errorf("without room for notifications: %v", err)
	}
	if after := m.descriptors(); after != before {
		t.Errorf("%d files are open, and were %d", after, before)
	}
}
