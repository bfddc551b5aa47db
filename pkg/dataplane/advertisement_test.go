package dataplane

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// The first advertisement of a router is received although this host forwards: by an agent, by its
// successor, and on a recreated link.
func TestLateAdvertisementIsReceived(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.sysctl("net/ipv6/conf/default/accept_ra", "1")
	router := m.newSandbox()
	m.connect(router)
	m.settle(nodes(2))
	m.hearsRouter(router, "fd00:5:1::")

	again, err := New(m.cfg)
	m.must(err)
	m.must(m.Close())
	m.Kernel = again
	m.settle(nodes(2))
	m.hearsRouter(router, "fd00:5:2::")

	m.must(m.nl.LinkDel(m.eth0))
	m.addVeth("eth0", 1500)
	m.eth0 = m.link("eth0")
	m.addr("eth0", "192.168.1.11/24")
	m.addr("eth0", "fd00:192:168:1::11/64")
	m.connect(router)
	m.settle(nodes(2))
	m.hearsRouter(router, "fd00:5:3::")
}

// A container must not become its host's router: what leads to one ignores advertisements once the
// host forwards.
func TestAdvertisementOfAContainerIsIgnored(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	container := m.addSandbox("vethdocker", "172.17.0.2/16")
	m.addr("vethdocker", "172.17.0.1/16")
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "docker0"}}))
	m.addr("docker0", "172.18.0.1/16")
	m.settle(nodes(2))
	for sent := false; !sent; {
		sent = m.advertised(container, "vethdocker-eth0", "fd00:bad::")
	}
	router := m.newSandbox()
	m.connect(router)
	m.hearsRouter(router, "fd00:5:1::") // later than the other one, which would have been received by now
	if _, received := m.received("vethdocker", "fd00:bad::"); received {
		t.Error("the container's router is in use")
	}
	for _, dev := range []string{"vethdocker", "docker0"} {
		if got := m.readSysctl(topology.ConfSysctl(6, dev, "accept_ra")); got != "1" {
			t.Errorf("accept_ra of %s is %s", dev, got)
		}
	}
}

// connect moves the other end of eth0 into another namespace.
func (m *machine) connect(router sandbox) {
	m.t.Helper()
	m.must(m.nl.LinkSetNsFd(m.link("eth0-peer"), router.fd))
	peer, err := router.nl.LinkByName("eth0-peer")
	m.must(err)
	m.must(router.nl.LinkSetUp(peer))
}

// hearsRouter waits until the host has an address and a default route by a router's word, which is
// repeated as routers do.
func (m *machine) hearsRouter(router sandbox, prefix string) {
	m.t.Helper()
	var route bool
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		m.advertised(router, "eth0-peer", prefix)
		var address bool
		if route, address = m.received("eth0", prefix); route && address {
			return
		}
	}
	m.t.Fatalf("the router that advertises %s is not in use: default route %t", prefix, route)
}

// received reports whether a link has a router's default route, and an address of its prefix.
func (m *machine) received(dev, prefix string) (route, address bool) {
	m.t.Helper()
	return m.receivedBy(m.nl, dev, prefix)
}

// receivedBy is received in the network namespace of a handle.
func (m *machine) receivedBy(nl *rtnl.Handle, dev, prefix string) (route, address bool) {
	m.t.Helper()
	link, err := nl.LinkByName(dev)
	m.must(err)
	routes, err := nl.RouteListFiltered(unix.AF_INET6, &rtnl.Route{Protocol: unix.RTPROT_RA, LinkIndex: link.Attrs().Index}, rtnl.RT_FILTER_PROTOCOL|rtnl.RT_FILTER_OIF)
	m.must(err)
	addrs, err := nl.AddrList(link, unix.AF_INET6)
	m.must(err)
	want := netip.PrefixFrom(netip.MustParseAddr(prefix), 64)
	for _, a := range addrs {
		if addr, _ := netip.AddrFromSlice(a.IP); want.Contains(addr) {
			address = true
		}
	}
	return len(routes) > 0, address
}

// advertised sends an advertisement if the router's device has a link-local address yet.
func (m *machine) advertised(router sandbox, dev, prefix string) bool {
	m.t.Helper()
	err := router.advertise(dev, netip.MustParseAddr(prefix))
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return false
	}
	m.must(err)
	return true
}

// advertise sends a router advertisement with a prefix (RFC 4861, sections 4.2 and 4.6.2).
func (s sandbox) advertise(dev string, prefix netip.Addr) error {
	const lifetime = 1800
	message := []byte{134, 0, 0, 0, 64, 0} // the kernel makes the checksum
	message = binary.BigEndian.AppendUint16(message, lifetime)
	message = append(message, make([]byte, 8)...)
	message = append(message, 3, 4, 64, 0xc0) // prefix information: on link, autonomous
	message = binary.BigEndian.AppendUint32(message, lifetime)
	message = binary.BigEndian.AppendUint32(message, lifetime)
	message = append(append(message, 0, 0, 0, 0), prefix.AsSlice()...)
	link, err := s.nl.LinkByName(dev)
	if err != nil {
		return err
	}
	return s.do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		allNodes := unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(link.Attrs().Index)}
		return unix.Sendto(fd, message, 0, &allNodes)
	})
}
