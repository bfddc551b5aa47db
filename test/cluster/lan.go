package cluster

import (
	"fmt"
	"net"
	"net/netip"
)

// The addresses of the LAN, its router and the world behind it:
//
//	node1 .11    node2 .12    node3 .13
//	  eth0         eth0         eth0
//	    \           |           /            lan0 192.168.1.1/24, fd00:192:168:1::1/64
//	     ----- the LAN's namespace -----     etcd, kube-apiserver, router
//	                |                        wan0 198.51.100.1/24, 2001:db8:51::1/64
//	              eth0
//	     outside 198.51.100.2                no route to any pod: it answers only who came masqueraded
const (
	lanBridge = "lan0"
	wanDevice = "wan0"
	uplink    = "eth0"
)

var (
	// PodRange4 is the IPv4 part of the agents' --cluster-cidr.
	PodRange4 = netip.MustParsePrefix("10.244.0.0/16")
	// PodRange6 is its IPv6 part.
	PodRange6 = netip.MustParsePrefix("fd00:10:244::/48")

	// Router4 is the nodes' default gateway, and where the API server listens.
	Router4 = netip.MustParseAddr("192.168.1.1")
	// Router6 is the nodes' default gateway of IPv6.
	Router6 = netip.MustParseAddr("fd00:192:168:1::1")

	lan4     = netip.PrefixFrom(Router4, 24)
	lan6     = netip.PrefixFrom(Router6, 64)
	wan4     = netip.MustParsePrefix("198.51.100.1/24")
	wan6     = netip.MustParsePrefix("2001:db8:51::1/64")
	outside4 = netip.MustParseAddr("198.51.100.2")
	outside6 = netip.MustParseAddr("2001:db8:51::2")
	default4 = netip.MustParsePrefix("0.0.0.0/0")
	default6 = netip.MustParsePrefix("::/0")
)

// Host is a machine or a pod: a namespace with one address a family, answering on both (see serve).
type Host struct {
	*Namespace
	V4, V6 netip.Addr

	servers servers
}

// Addr is the host's address of the family of like.
func (h *Host) Addr(like netip.Addr) netip.Addr {
	if like.Is4() {
		return h.V4
	}
	return h.V6
}

// Addrs are the host's addresses, IPv4 first.
func (h *Host) Addrs() []netip.Addr { return []netip.Addr{h.V4, h.V6} }

func (h *Host) close() error {
	h.servers.close()
	return h.Namespace.close()
}

// newLAN turns this process' own namespace into the LAN and its router.
func newLAN() (*Namespace, error) {
	lan, err := lanNamespace()
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

// newOutside makes the host behind the router. It knows the way to the LAN, and none to any pod.
func newOutside(lan *Namespace) (*Host, error) {
	namespace, err := newNamespace("outside")
	if err != nil {
		return nil, err
	}
	outside := &Host{Namespace: namespace, V4: outside4, V6: outside6}
	if err := lan.addCable(wanDevice, namespace, uplink, nil); err != nil {
		return nil, err
	}
	if err := lan.addAddresses(wanDevice, wan4, wan6); err != nil {
		return nil, err
	}
	if err := namespace.addAddresses(uplink, netip.PrefixFrom(outside4, 24), netip.PrefixFrom(outside6, 64)); err != nil {
		return nil, err
	}
	if err := namespace.AddStaticRoute(lan4.Masked(), wan4.Addr()); err != nil {
		return nil, err
	}
	if err := namespace.AddStaticRoute(lan6.Masked(), wan6.Addr()); err != nil {
		return nil, err
	}
	if err := outside.serve(); err != nil {
		return nil, err
	}
	return outside, nil
}

// cardOf is a locally administered MAC address with the IPv4 address in it.
func cardOf(v4 netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x02, 0}, v4.AsSlice()...)
}

// newMachine makes a host on the LAN, with its default routes and without forwarding: that is the agent's to switch on.
func newMachine(lan *Namespace, name string, v4, v6 netip.Addr) (*Host, error) {
	namespace, err := newNamespace(name)
	if err != nil {
		return nil, err
	}
	machine, err := wireMachine(lan, namespace, v4, v6)
	if err != nil {
		return nil, err
	}
	if err := machine.serve(); err != nil {
		return nil, err
	}
	return machine, nil
}

// wireMachine connects a namespace with the LAN. A machine of the same address has the same network card: others know it
// for half a minute after it was switched off, and would look for the old one when it is back.
func wireMachine(lan, namespace *Namespace, v4, v6 netip.Addr) (*Host, error) {
	port := lanPort(namespace.Name)
	if err := lan.addCable(port, namespace, uplink, cardOf(v4)); err != nil {
		return nil, err
	}
	if err := lan.plugIn(port, lanBridge); err != nil {
		return nil, err
	}
	if err := namespace.addAddresses(uplink, netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)); err != nil {
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
