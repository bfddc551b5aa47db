package netlab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (n *Namespace) up(device string) error {
	link, err := n.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("finding %s in %s: %w", device, n.Name, err)
	}
	if err := n.link.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing %s up in %s: %w", device, n.Name, err)
	}
	return nil
}

// addBridge makes the switch of the LAN. Left alone, a bridge takes the lowest of its ports' addresses, which changes
// when machines come and go, and neighbors that cached the old one lose the router for half a minute.
func (n *Namespace) addBridge(device string, card net.HardwareAddr) error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name, bridge.HardwareAddr = device, card
	if err := n.link.LinkAdd(bridge); err != nil {
		return fmt.Errorf("making bridge %s in %s: %w", device, n.Name, err)
	}
	return n.up(device)
}

// addCable makes a pair of connected devices, one end here and the other in peer, both up. The other end has the MAC
// address card, or a random one if that is nil.
func (n *Namespace) addCable(device string, peer *Namespace, peerDevice string, card net.HardwareAddr) error {
	cable := &netlink.Veth{
		LinkAttrs:        netlink.NewLinkAttrs(),
		PeerName:         peerDevice,
		PeerHardwareAddr: card,
		PeerNamespace:    netlink.NsFd(int(peer.fd)),
	}
	cable.Name = device
	if err := n.link.LinkAdd(cable); err != nil {
		return fmt.Errorf("connecting %s of %s with %s of %s: %w", device, n.Name, peerDevice, peer.Name, err)
	}
	if err := n.up(device); err != nil {
		return err
	}
	return peer.up(peerDevice)
}

// plugIn makes device a port of a bridge of the same namespace.
func (n *Namespace) plugIn(device, bridge string) error {
	port, err := n.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("finding %s in %s: %w", device, n.Name, err)
	}
	master, err := n.link.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("finding %s in %s: %w", bridge, n.Name, err)
	}
	if err := n.link.LinkSetMaster(port, master); err != nil {
		return fmt.Errorf("plugging %s into %s: %w", device, bridge, err)
	}
	return nil
}

// lanPort is the end of a machine's cable at the switch.
func lanPort(machine, device string) string {
	if device == Uplink {
		return "to-" + machine
	}
	return "to-" + machine + "-" + device
}

// unplug takes a cable away, both ends of it.
func (n *Namespace) unplug(name string) error {
	port, err := n.link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding cable %s: %w", name, err)
	}
	if err := n.link.LinkDel(port); err != nil {
		return fmt.Errorf("taking cable %s away: %w", name, err)
	}
	return nil
}

func (n *Namespace) addAddresses(device string, addresses ...netip.Prefix) error {
	link, err := n.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("finding %s in %s: %w", device, n.Name, err)
	}
	for _, address := range addresses {
		withMask := &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: mask(address)}}
		if address.Addr().Is6() {
			withMask.Flags = unix.IFA_F_NODAD
		}
		if err := n.link.AddrAdd(link, withMask); err != nil {
			return fmt.Errorf("giving %s to %s of %s: %w", address, device, n.Name, err)
		}
	}
	return nil
}

func mask(prefix netip.Prefix) net.IPMask {
	return net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Masked().Addr().AsSlice(), Mask: mask(prefix)}
}

// AddStaticRoute is an administrator's `ip route add TO via GATEWAY proto static`: it adds a route that is
// not the agent's.
func (n *Namespace) AddStaticRoute(to netip.Prefix, gateway netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(to), Gw: gateway.AsSlice(), Protocol: unix.RTPROT_STATIC}
	if err := n.link.RouteAdd(route); err != nil {
		return fmt.Errorf("adding a route to %s via %s in %s: %w", to, gateway, n.Name, err)
	}
	return nil
}

// DeleteStaticRoute deletes a route that AddStaticRoute added.
func (n *Namespace) DeleteStaticRoute(to netip.Prefix, gateway netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(to), Gw: gateway.AsSlice(), Protocol: unix.RTPROT_STATIC}
	if err := n.link.RouteDel(route); err != nil {
		return fmt.Errorf("deleting the route to %s via %s in %s: %w", to, gateway, n.Name, err)
	}
	return nil
}
