package dataplane

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A pod's advertisement makes it neither its neighbor's nor its node's router, for all families of
// pods.
func TestAPodsAdvertisementIsDropped(t *testing.T) {
	for name, of := range map[string]func(n int) []*topology.Node{
		"IPv4":       func(n int) []*topology.Node { return oneFamily(nodes(n), 0) },
		"IPv6":       func(n int) []*topology.Node { return oneFamily(nodes(n), 1) },
		"dual-stack": nodes,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.needIPv6()
			m.sysctl(topology.SysctlBridgeNF6, "0")
			m.settle(of(2))
			rogue, victim := m.attach("rogue"), m.attach("victim")
			m.sysctl(topology.ConfSysctl(6, topology.Bridge, "accept_ra"), "2") // as if the agent had not set it
			for range 3 {
				m.advertises(rogue, "fd00:bad::")
			}
			m.must(m.deleteTable()) // without it the same advertisement is received, and earlier ones would have been by then
			for host, nl := range map[string]*rtnl.Handle{"eth0": victim.nl, topology.Bridge: m.nl} {
				m.awaitRouter(rogue, nl, host, "fd00:5:1::")
				if _, bad := m.receivedBy(nl, host, "fd00:bad::"); bad {
					t.Errorf("%s has an address of the rogue's prefix", host)
				}
			}
		})
	}
}

// advertises sends an advertisement of a pod, once its link-local address can be used.
func (m *machine) advertises(pod *realPod, prefix string) {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := pod.advertise("eth0", netip.MustParseAddr(prefix))
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EADDRNOTAVAIL) || time.Now().After(deadline) {
			m.t.Fatal(err)
		}
	}
}

// awaitRouter advertises until a device has a default route and an address by it.
func (m *machine) awaitRouter(pod *realPod, nl *rtnl.Handle, dev, prefix string) {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		m.advertises(pod, prefix)
		if route, address := m.receivedBy(nl, dev, prefix); route && address {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s receives no advertisement without our table", dev)
		}
	}
}
