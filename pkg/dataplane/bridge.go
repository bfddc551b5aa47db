package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

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
	attrs := rtnl.NewLinkAttrs()
	mac, err := net.ParseMAC(d.MAC)
	if err == nil {
		attrs.Name, attrs.MTU, attrs.HardwareAddr = d.Name, d.MTU, mac
		err = k.handle.LinkAdd(&rtnl.Bridge{LinkAttrs: attrs})
	}
	var link rtnl.Link
	if err == nil || errors.Is(err, unix.EEXIST) {
		link, err = k.handle.LinkByName(d.Name)
	}
	if err == nil && link.Type() != topology.KindBridge {
		err = fmt.Errorf("a device of that name is there, and its kind is %s", kindOf(link))
	}
	if err != nil {
		return part(b, fmt.Errorf("adding bridge %s: %w", d.Name, err))
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

// addresses returns those of the bridge and of tunnels, sorted. One without a route to its network by the bridge,
// because that was deleted or the address was added with noprefixroute, connects no pod and counts
// as missing. A bridge that is down has no IPv4 routes, and gets them when it is up.
func (k *Kernel) addresses() []topology.Address {
	dev := k.cfg.Bridge
	up := k.links.idents[k.links.byName[dev]].up
	all := slices.Clone(k.links.ends)
	for _, link := range k.links.list {
		if link.Name != dev {
			continue
		}
		for _, p := range link.Addrs {
			if !up || p.IsSingleIP() || k.routes.connects(dev, p.Masked()) {
				all = append(all, topology.Address{Dev: dev, Prefix: p})
			}
		}
	}
	slices.SortFunc(all, topology.Address.Compare)
	return all
}

// connects reports whether a device has a route to a network that goes before our unreachable one.
func (f *routeFacts) connects(dev string, network netip.Prefix) bool {
	return slices.ContainsFunc(f.foreign, func(r topology.Route) bool {
		return r.Dev == dev && r.Dst == network && r.Type == topology.Unicast && r.Metric < topology.MetricOwn
	})
}

// changeAddress adds or deletes an address of the bridge or of a tunnel.
func (k *Kernel) changeAddress(op plan.Op, a plan.Address) error {
	k.fresh.routes = false // a connected route comes or goes with it
	doing, change, done := "adding", k.addAddress, unix.EEXIST
	if op == plan.Delete {
		doing, change, done = "deleting", k.handle.AddrDel, unix.EADDRNOTAVAIL
	}
	index, ok := k.links.byName[a.Dev]
	if !ok && op == plan.Delete {
		return nil // it went with the device
	}
	err := errNoDevice
	if ok {
		err = change(&rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: index, Name: a.Dev}}, &rtnl.Addr{IPNet: ipNet(a.Prefix)})
	}
	switch {
	case err == nil, errors.Is(err, done):
		return nil
	case errors.Is(err, unix.EACCES): // addrconf_add_dev of net/ipv6/addrconf.c
		err = fmt.Errorf("%w (IPv6 is switched off on that device: %s)", err, topology.ConfSysctl(6, a.Dev, "disable_ipv6"))
	}
	return fmt.Errorf("%s address %s: %w", doing, a, err)
}

// addAddress adds an address to the bridge. It skips duplicate address detection, because no other
// host may have the gateway of our own subnet, so it is usable at once. A pod that resolves it
// learns the bridge's MAC address. An address that exists already lacks its route, which the kernel
// only adds together with the address. An IPv6 address has one length on a device
// (ipv6_chk_same_addr of net/ipv6/addrconf.c), so one of another length is deleted first.
func (k *Kernel) addAddress(link rtnl.Link, a *rtnl.Addr) error {
	if err := k.keepMAC(link.Attrs().Name, link.Attrs().Index); err != nil {
		return err
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	k.clearBroadcast(a)
	err := k.handle.AddrAdd(link, a)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := k.clearAddress(link, a); err != nil {
		return err
	}
	return k.handle.AddrAdd(link, a)
}

// clearBroadcast deletes the route by which the kernel takes the first address of the bridge's
// network for a broadcast address (fib_add_ifaddr of net/ipv4/fib_frontend.c, before Linux 5.14).
// That address is the tunnel's, and of two routes to it the older counts.
func (k *Kernel) clearBroadcast(a *rtnl.Addr) {
	bridge, there := k.links.byName[k.cfg.Bridge]
	if ones, bits := a.Mask.Size(); there && ones == bits && a.IP.To4() != nil {
		_ = k.handle.RouteDel(&rtnl.Route{ // an error means that there is none
			Dst: a.IPNet, LinkIndex: bridge, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_BROADCAST, Scope: unix.RT_SCOPE_LINK,
		})
	}
}

// clearAddress deletes an address from a device, with its present length.
func (k *Kernel) clearAddress(link rtnl.Link, a *rtnl.Addr) error {
	for _, l := range k.links.list {
		for _, p := range l.Addrs {
			if l.Name == link.Attrs().Name && p.Addr().Is6() && p.Addr().String() == a.IP.String() {
				return k.handle.AddrDel(link, &rtnl.Addr{IPNet: ipNet(p)})
			}
		}
	}
	return k.handle.AddrDel(link, a)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
