package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// A pod whose address was another's a moment ago is reached at once, however the other ended.
func TestAReusedPodAddressIsReachedAtOnce(t *testing.T) {
	for name, end := range map[string]func(*machine, *realPod){
		"detached": (*machine).detach,
		"port deleted": func(m *machine, pod *realPod) {
			m.must(m.nl.LinkDel(m.link(pod.port)))
			m.detach(pod)
		},
		"port taken out": func(m *machine, pod *realPod) {
			m.must(m.nl.LinkSetNoMaster(m.link(pod.port)))
			m.detach(pod)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.watch()
			m.settle(nodes(2))
			first, other := m.attach("first"), m.attach("other")
			for _, pod := range []*realPod{first, other} {
				for _, addr := range pod.addrs {
					m.reach(addr, pod.mac)
				}
			}
			end(m, first)
			m.awaitNoNeighbor(first.mac)
			m.nextIs(first.addrs)
			second := m.attach("second")
			if !slices.Equal(second.addrs, first.addrs) || second.mac == first.mac {
				t.Fatalf("the second pod has %v and MAC address %s, the first had %v and %s", second.addrs, second.mac, first.addrs, first.mac)
			}
			for _, addr := range second.addrs {
				m.reach(addr, second.mac)
			}
			for _, addr := range other.addrs {
				if n, ok := m.neighborOf(addr); !ok || n.HardwareAddr.String() != other.mac {
					t.Errorf("of the pod that stays: %v", n)
				}
			}
		})
	}
}

// A port that left while no agent ran is found at the start. Entries of an operator or another
// program stay.
func TestNeighborsOfPortsThatLeftBefore(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	other := m.attach("other") // without a port the bridge would lose its carrier, and the kernel forget all neighbors
	pod := m.attach("pod")
	for _, p := range []*realPod{pod, other} {
		for _, addr := range p.addrs {
			m.reach(addr, p.mac)
		}
	}
	m.detach(pod)
	given := []rtnl.Neigh{
		{IP: net.ParseIP("10.128.0.77"), State: unix.NUD_PERMANENT},
		{IP: net.ParseIP("10.128.0.78"), State: unix.NUD_NOARP},
		{IP: net.ParseIP("10.128.0.79"), State: unix.NUD_REACHABLE, Flags: unix.NTF_EXT_LEARNED},
	}
	for _, n := range given {
		n.LinkIndex, n.HardwareAddr = m.link(topology.Bridge).Attrs().Index, net.HardwareAddr{2, 0, 0, 0, 0, 7}
		m.must(m.nl.NeighSet(&n))
	}
	again, err := New(m.cfg) // which has not learned the pod's MAC address
	m.must(err)
	m.must(m.Close())
	m.Kernel = again
	m.watch()
	m.awaitNoNeighbor(pod.mac)
	m.must(m.dropNeighbors()) // which ends after all of it has been done
	for _, n := range given {
		addr, _ := netip.AddrFromSlice(n.IP)
		if _, there := m.neighborOf(addr.Unmap()); !there {
			t.Errorf("the entry of %s was deleted", addr)
		}
	}
	for _, addr := range other.addrs {
		if n, _ := m.neighborOf(addr); n.HardwareAddr.String() != other.mac {
			t.Errorf("of a pod that stays: %v", n)
		}
	}
}

// reach sends to an address until the kernel has found its MAC address, which must be the given
// one.
func (m *machine) reach(addr netip.Addr, mac string) {
	m.t.Helper()
	conn, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String())
	m.must(err)
	defer conn.Close()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_, _ = conn.Write([]byte("?")) // refused once the pod has answered
		n, ok := m.neighborOf(addr)
		if ok && n.HardwareAddr.String() == mac {
			return
		}
		if ok && n.HardwareAddr != nil {
			m.t.Fatalf("packets to %s go to %s, and the pod is %s", addr, n.HardwareAddr, mac)
		}
	}
	m.t.Fatalf("%s is not found", addr)
}

// neighborOf returns the bridge's neighbor with an address.
func (m *machine) neighborOf(addr netip.Addr) (rtnl.Neigh, bool) {
	m.t.Helper()
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	all, err := m.nl.NeighList(m.link(topology.Bridge).Attrs().Index, family)
	m.must(err)
	for _, n := range all {
		if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() == addr {
			return n, true
		}
	}
	return rtnl.Neigh{}, false
}

// awaitNoNeighbor waits until the bridge has no neighbor of a MAC address. The kernel alone would
// keep an unused one for as long as there is room.
func (m *machine) awaitNoNeighbor(mac string) {
	m.t.Helper()
	testutil.Await(m.t, func() error {
		all, err := m.nl.NeighList(m.link(topology.Bridge).Attrs().Index, rtnl.FAMILY_ALL)
		m.must(err)
		if slices.ContainsFunc(all, func(n rtnl.Neigh) bool { return n.HardwareAddr.String() == mac }) {
			return fmt.Errorf("neighbors of %s, whose port has gone: %v", mac, all)
		}
		return nil
	})
}
