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

// AddSecondLAN adds another LAN behind the router. Its machines reach those of the first LAN by the router only.
func (t *Topology) AddSecondLAN() error {
	if err := t.LAN.addLAN(lans[1]); err != nil {
		return err
	}
	return t.Outside.routeTo(lans[1])
}

// NewMachineOn makes machine number index (1 to 200) on the first LAN (0) or the second one (1): a namespace with default
// routes and without forwarding, which the agent switches on. Nothing listens on it.
func (t *Topology) NewMachineOn(number int, name string, index int) (*Host, error) {
	namespace, err := NewNamespace(name)
	if err != nil {
		return nil, err
	}
	l := lans[number]
	machine, err := wireMachine(t.LAN, namespace, l, Uplink, index)
	if err != nil {
		return nil, err
	}
	return machine, namespace.addDefaults(l)
}

// AddLink connects a machine with another LAN as well, by a device of its own, and returns its addresses there. The
// default routes stay.
func (t *Topology) AddLink(machine *Host, number int, device string, index int) (v4, v6 netip.Addr, err error) {
	there, err := wireMachine(t.LAN, machine.Namespace, lans[number], device, index)
	if err != nil {
		return v4, v6, err
	}
	return there.V4, there.V6, nil
}

// Remove takes a machine off the LAN, with all that is in its namespace, once no process is left in there.
func (t *Topology) Remove(machine *Host) error {
	if err := t.LAN.unplug(lanPort(machine.Name, Uplink)); err != nil {
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
	router, err := Own()
	if err != nil {
		return nil, err
	}
	if err := router.addLAN(lans[0]); err != nil {
		return nil, err
	}
	return router, router.forward("1")
}

func (n *Namespace) addLAN(l lan) error {
	if err := n.addBridge(l.bridge, cardOf(l.v4.Addr())); err != nil {
		return err
	}
	return n.addAddresses(l.bridge, l.v4, l.v6)
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
	if err := outside.routeTo(lans[0]); err != nil {
		return nil, err
	}
	if err := outside.Serve(); err != nil {
		return nil, err
	}
	return outside, nil
}

// routeTo adds the routes of the host outside to a LAN.
func (h *Host) routeTo(l lan) error {
	if err := h.AddStaticRoute(l.v4.Masked(), wan4.Addr()); err != nil {
		return err
	}
	return h.AddStaticRoute(l.v6.Masked(), wan6.Addr())
}

// cardOf is a locally administered MAC address with the IPv4 address in it.
func cardOf(v4 netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x02, 0}, v4.AsSlice()...)
}

// wireMachine connects a namespace with a LAN, by a device. A machine of the same address has the same network card:
// others know it for half a minute after it was switched off, and would look for the old one when it is back.
func wireMachine(router, namespace *Namespace, l lan, device string, index int) (*Host, error) {
	v4, v6 := hostOf(l.v4, index), hostOf(l.v6, index)
	port := lanPort(namespace.Name, device)
	if err := router.addCable(port, namespace, device, cardOf(v4)); err != nil {
		return nil, err
	}
	if err := router.plugIn(port, l.bridge); err != nil {
		return nil, err
	}
	if err := namespace.addAddresses(device, netip.PrefixFrom(v4, l.v4.Bits()), netip.PrefixFrom(v6, l.v6.Bits())); err != nil {
		return nil, err
	}
	return &Host{Namespace: namespace, V4: v4, V6: v6}, nil
}

// addDefaults makes a LAN's router the default gateway, and switches forwarding off.
func (n *Namespace) addDefaults(l lan) error {
	if err := n.forward("0"); err != nil {
		return err
	}
	if err := n.AddStaticRoute(default4, l.v4.Addr()); err != nil {
		return fmt.Errorf("wiring %s: %w", n.Name, err)
	}
	if err := n.AddStaticRoute(default6, l.v6.Addr()); err != nil {
		return fmt.Errorf("wiring %s: %w", n.Name, err)
	}
	return nil
}
