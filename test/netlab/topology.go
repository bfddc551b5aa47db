package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Topology is the LAN, its router and a host outside.
type Topology struct {
	// LAN is the namespace of the switch and of the router.
	LAN *Namespace
	// Outside is a host beyond the router that has no route to any pod.
	Outside *Host
}

// New turns this process' own network namespace into the LAN.
func New() (*Topology, error) {
	lan, err := newLAN()
	if err != nil {
		return nil, fmt.Errorf("making the LAN: %w", err)
	}
	outside, err := newOutside(lan)
	if err != nil {
		return nil, fmt.Errorf("making the host outside: %w", err)
	}
	return &Topology{LAN: lan, Outside: outside}, nil
}

// NewMachine makes machine number index (1 to 200): a namespace on the LAN with default routes and without forwarding,
// which the agent switches on. Nothing listens on it.
func (t *Topology) NewMachine(name string, index int) (*Host, error) {
	namespace, err := NewNamespace(name)
	if err != nil {
		return nil, err
	}
	return wireMachine(t.LAN, namespace, hostOf(lan4, index), hostOf(lan6, index))
}

// Remove takes a machine off the LAN, with all that is in its namespace, once no process is left in there.
func (t *Topology) Remove(machine *Host) error {
	if err := t.LAN.unplug(machine.Name); err != nil {
		return err
	}
	return machine.Close()
}

// hostOf is the address of machine index on the LAN: .11 for the first one, and ::11, which is hexadecimal.
func hostOf(lan netip.Prefix, index int) netip.Addr {
	if lan.Addr().Is4() {
		bytes := lan.Addr().As4()
		bytes[3] = byte(10 + index)
		return netip.AddrFrom4(bytes)
	}
	return netip.MustParseAddr(strings.TrimSuffix(lan.Addr().String(), "1") + fmt.Sprint(10+index))
}

// newLAN turns this process' own namespace into the LAN and its router.
func newLAN() (*Namespace, error) {
	lan, err := Own()
	if err != nil {
		return nil, err
	}
	if err := lan.addBridge(lanBridge); err != nil {
		return nil, err
	}
	if err := lan.addAddresses(lanBridge, lan4, lan6); err != nil {
		return nil, err
	}
	if err := lan.forward("1"); err != nil {
		return nil, err
	}
	return lan, nil
}

// forward switches routing between devices on ("1") or off ("0").
func (n *Namespace) forward(value string) error {
	if err := n.Sysctl("net/ipv4/ip_forward", value); err != nil {
		return err
	}
	return n.Sysctl("net/ipv6/conf/all/forwarding", value)
}

// newOutside makes the host behind the router. It has a route to the LAN, and none to any pod.
func newOutside(lan *Namespace) (*Host, error) {
	namespace, err := NewNamespace("outside")
	if err != nil {
		return nil, err
	}
	outside := &Host{Namespace: namespace, V4: outside4, V6: outside6}
	if err := lan.addCable(wanDevice, namespace, Uplink, nil); err != nil {
		return nil, err
	}
	if err := lan.addAddresses(wanDevice, wan4, wan6); err != nil {
		return nil, err
	}
	if err := namespace.addAddresses(Uplink, netip.PrefixFrom(outside4, 24), netip.PrefixFrom(outside6, 64)); err != nil {
		return nil, err
	}
	if err := namespace.AddStaticRoute(lan4.Masked(), wan4.Addr()); err != nil {
		return nil, err
	}
	if err := namespace.AddStaticRoute(lan6.Masked(), wan6.Addr()); err != nil {
		return nil, err
	}
	if err := outside.Serve(); err != nil {
		return nil, err
	}
	return outside, nil
}

// cardOf is a locally administered MAC address with the IPv4 address in it.
func cardOf(v4 netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x02, 0}, v4.AsSlice()...)
}

// wireMachine connects a namespace with the LAN. A machine of the same address has the same network card: others know it
// for half a minute after it was switched off, and would look for the old one when it is back.
func wireMachine(lan, namespace *Namespace, v4, v6 netip.Addr) (*Host, error) {
	port := lanPort(namespace.Name)
	if err := lan.addCable(port, namespace, Uplink, cardOf(v4)); err != nil {
		return nil, err
	}
	if err := lan.plugIn(port, lanBridge); err != nil {
		return nil, err
	}
	if err := namespace.addAddresses(Uplink, netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)); err != nil {
		return nil, err
	}
	if err := namespace.forward("0"); err != nil {
		return nil, err
	}
	if err := namespace.AddStaticRoute(default4, Router4); err != nil {
		return nil, fmt.Errorf("wiring %s: %w", namespace.Name, err)
	}
	if err := namespace.AddStaticRoute(default6, Router6); err != nil {
		return nil, fmt.Errorf("wiring %s: %w", namespace.Name, err)
	}
	return &Host{Namespace: namespace, V4: v4, V6: v6}, nil
}
