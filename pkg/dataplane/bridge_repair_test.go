package dataplane

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// passAfter is a pass of a process that remembers the one before, and returns what it did.
func (m *machine) passAfter(before *topology.State) plan.Changes {
	m.t.Helper()
	host, err := m.Facts(context.Background(), topology.Concerns(options(m), nodes(2)))
	m.must(err)
	actual := m.observed().After(*before)
	*before, _ = topology.Desired(options(m), host, m.stated(nodes(2)), actual)
	c := plan.Diff(*before, actual)
	m.must(m.Apply(context.Background(), c))
	return c
}

func (m *machine) mac(name string) string {
	m.t.Helper()
	return m.link(name).Attrs().HardwareAddr.String()
}

// A changed MAC address of the bridge, which is in the pods' neighbor tables, is restored, whether
// another program set it or the bridge took that of a port.
func TestMACAddressIsPutBack(t *testing.T) {
	other := net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
	for name, disturb := range map[string]func(*machine){
		"given": func(m *machine) { m.must(m.nl.LinkSetHardwareAddr(m.link(topology.Bridge), other)) },
		"given, and an address deleted": func(m *machine) {
			m.must(m.nl.LinkSetHardwareAddr(m.link(topology.Bridge), other))
			a, err := rtnl.ParseAddr("10.128.0.1/24")
			m.must(err)
			m.must(m.nl.AddrDel(m.link(topology.Bridge), a))
		},
		"of a port": func(m *machine) {
			m.addSandbox("vethlow")
			m.must(m.nl.LinkSetHardwareAddr(m.link("vethlow"), other))
			m.must(m.nl.LinkSetMaster(m.link("vethlow"), m.link(topology.Bridge)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}})) // it takes the MAC addresses of ports
			m.up(topology.Bridge)
			for _, a := range m.known("10.128.0.1/24", "fd01::1/64") {
				m.addr(topology.Bridge, a)
			}
			m.addPod("vethpod", "10.128.0.2/24")
			var before topology.State
			made := m.mac(topology.Bridge)
			m.passAfter(&before)
			if got := m.mac(topology.Bridge); got != made {
				t.Fatalf("the first pass changed the MAC address from %s to %s", made, got)
			}
			news := m.watch()
			for !m.passAfter(&before).Empty() {
			}
			drain(news, shortly)
			m.passAfter(&before)
			disturb(m)
			if got := m.mac(topology.Bridge); got != other.String() {
				t.Fatalf("the MAC address is %s", got)
			}
			for found := false; !found; {
				m.expect(news, name)
				found = !m.passAfter(&before).Empty()
			}
			if got := m.mac(topology.Bridge); got != made {
				t.Errorf("the MAC address was %s, and is %s", made, got)
			}
			m.must(m.nl.LinkSetHardwareAddr(m.link(topology.Bridge), other))
			m.Forget()
			before = topology.State{}
			m.passAfter(&before)
			if got := m.mac(topology.Bridge); got != other.String() {
				t.Errorf("after a restart the MAC address became %s", got)
			}
		})
	}
}

// A bridge of an agent before, or of the plugin, is left as it is, in each audit.
func TestAtRestWithABridgeOfOthers(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}}))
	m.must(m.nl.LinkSetMTU(m.link(topology.Bridge), 1400))
	m.must(m.nl.LinkSetHardwareAddr(m.link(topology.Bridge), net.HardwareAddr{0x02, 0, 0, 0, 0, 9}))
	m.up(topology.Bridge)
	m.addPod("vethpod", "10.128.0.2/24", "fd01::2/64")
	m.settle(nodes(2))
	m.awaitCarriers()
	var before topology.State
	monitors := m.monitors()
	for range 20 {
		m.Forget()
		if c := m.passAfter(&before); !c.Empty() {
			t.Fatalf("an audit finds something to do: %+v", c)
		}
	}
	if types := m.announced(monitors); len(types) > 0 {
		t.Errorf("%d messages, of types %v", len(types), types)
	}
	if l := m.link(topology.Bridge).Attrs(); l.HardwareAddr.String() != "02:00:00:00:00:09" || l.MTU != 1400 {
		t.Errorf("the bridge has %s, MTU %d", l.HardwareAddr, l.MTU)
	}
}

// A port with a small MTU lowers that of a bridge without a configured MTU, as ours is.
func TestPortOfASmallMTUTakesNoIPv6OffTheBridge(t *testing.T) {
	for _, uplink := range []int{1500, 1280} {
		for _, ours := range []bool{true, false} {
			m := newMachine(t)
			m.needIPv6()
			m.must(m.nl.LinkSetMTU(m.eth0, uplink))
			if !ours {
				m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge, MTU: uplink}}))
			}
			m.settle(nodes(2))
			m.addSandbox("vethsmall")
			m.must(m.nl.LinkSetMTU(m.link("vethsmall"), 1200))
			m.must(m.nl.LinkSetMaster(m.link("vethsmall"), m.link(topology.Bridge)))
			if got := m.link(topology.Bridge).Attrs().MTU; got != 1200 {
				t.Fatalf("ours %t: the port made the MTU %d, and shows nothing", ours, got)
			}
			m.settle(nodes(2))
			if got := m.link(topology.Bridge).Attrs().MTU; got != uplink || len(m.bridgeAddrs()) != 2 || m.readSysctl("net/ipv6/conf/"+topology.Bridge+"/accept_ra") != "0" {
				t.Errorf("ours %t: the MTU is %d, with %v", ours, got, m.bridgeAddrs())
			}
		}
	}
}

// An MTU that the kernel refuses is named, with the device.
func TestMTUThatIsRefusedIsNamed(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	err := m.Apply(context.Background(), plan.Of(plan.Replace, plan.MTU{Dev: topology.Bridge, Bytes: 1 << 20}))
	if err == nil || !strings.Contains(err.Error(), "setting the MTU of plainroute0 from 1500 to 1048576: ") {
		t.Errorf("got %v", err)
	}
}

// A device that took the bridge's name since the last read is not changed.
func TestNameTakenMeanwhile(t *testing.T) {
	m := newMachine(t)
	c := m.diff(nodes(2))
	m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge, MTU: 1400}, PeerName: "other"}))
	err := m.Apply(context.Background(), c)
	if err == nil || !strings.Contains(err.Error(), "its kind is veth") {
		t.Errorf("got %v", err)
	}
	if keys := failedKeys(err); !slices.Equal(keys, []string{"bridge plainroute0"}) {
		t.Errorf("failed are %q: what the bridge gets was tried on the device", keys)
	}
	if l := m.link(topology.Bridge).Attrs(); m.isUp(topology.Bridge) || len(m.bridgeAddrs()) > 0 || l.MTU != 1400 {
		t.Errorf("the device is up %t, with %v, MTU %d", m.isUp(topology.Bridge), m.bridgeAddrs(), l.MTU)
	}
}
