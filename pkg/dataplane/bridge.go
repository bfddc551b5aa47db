package dataplane

import (
	"errors"
	"fmt"
	"net"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// bridge returns the name if there is a bridge of that name. A device of another kind belongs to
// another program.
func (f *linkFacts) bridge(name string) string {
	if _, there := f.byName[name]; there && f.kinds[name] == topology.KindBridge {
		return name
	}
	return ""
}

// addBridge adds the bridge, which stays down. With a configured MAC address a bridge does not take
// that of its ports (br_stp_recalculate_bridge_id of net/bridge/br_stp_if.c).
func (k *Kernel) addBridge(b plan.Bridge) error {
	k.fresh.routes = false
	d := b.Device
	failed := func(err error) error { return part(b, fmt.Errorf("adding bridge %s: %w", d.Name, err)) }
	mac, err := net.ParseMAC(d.MAC)
	if err != nil {
		return failed(err)
	}
	attrs := rtnl.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = d.Name, d.MTU, mac
	if err := k.handle.LinkAdd(&rtnl.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return failed(err)
	}
	link, err := k.handle.LinkByName(d.Name)
	if err == nil && link.Type() != topology.KindBridge {
		err = fmt.Errorf("a device of that name is there, and its kind is %s", kindOf(link))
	}
	if err != nil {
		return failed(err)
	}
	k.links.note(link.Attrs().Index, linkIdent{name: d.Name, mtu: d.MTU}, false)
	k.links.kinds[d.Name], k.links.mac, k.links.local6 = topology.KindBridge, d.MAC, false
	return nil
}

// setMTU sets the bridge's MTU, before any of its IPv6 settings and addresses, which do not exist
// below 1280.
func (k *Kernel) setMTU(m plan.MTU) error {
	index, there := k.links.byName[m.Dev]
	if !there {
		return nil
	}
	k.fresh.routes = false
	err := k.handle.LinkSetMTU(&rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: index}}, m.Bytes)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("setting the MTU of %s from %d to %d: %w", m.Dev, k.links.idents[index].mtu, m.Bytes, err)
	}
	return nil
}

// setAddress restores the MAC address that is in the pods' neighbor tables, and switches ARP on.
func (k *Kernel) setAddress(link rtnl.Link, d topology.Device) error {
	if d.MAC != "" && d.MAC != k.links.mac && d.Name == k.cfg.Bridge {
		mac, err := net.ParseMAC(d.MAC)
		if err != nil {
			return err
		}
		if err := k.handle.LinkSetHardwareAddr(link, mac); err != nil {
			return err
		}
		k.links.mac = d.MAC
	}
	if k.links.idents[link.Attrs().Index].noARP && d.Name == k.cfg.Bridge {
		return k.handle.LinkSetARPOn(link)
	}
	return nil
}

// keepMAC fixes the MAC address of a bridge that another program added. Otherwise the bridge takes
// another one when a port comes or goes.
func (k *Kernel) keepMAC(bridge string, index int) error {
	mac, err := net.ParseMAC(k.links.mac)
	if err != nil || bridge != k.cfg.Bridge {
		return nil // no MAC address, or not our bridge
	}
	return k.handle.LinkSetHardwareAddr(&rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: index}}, mac)
}

// deleteBridge reads the ports again, because a plugin may have attached a pod since the last look.
func (k *Kernel) deleteBridge(name string) error {
	k.fresh.routes = false
	k.Sweep()
	links, _, err := k.readLinks()
	if err != nil {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	if links.bridge(name) == "" {
		return nil
	}
	if n := links.ports(name); n > 0 {
		return fmt.Errorf("deleting bridge %s: it has got %d ports meanwhile", name, n)
	}
	err = k.handle.LinkDel(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Index: links.byName[name]}})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	return nil
}
