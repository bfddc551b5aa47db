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

// addresses returns those of the bridge, sorted. One without a route to its network by the bridge,
// because that was deleted or the address was added with noprefixroute, connects no pod and counts
// as missing. A bridge that is down has no IPv4 routes, and gets them when it is up.
func (k *Kernel) addresses() []topology.Address {
	dev := k.cfg.Bridge
	up := k.links.idents[k.links.byName[dev]].up
	var all []topology.Address
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

// changeAddress adds or deletes an address of the bridge.
func (k *Kernel) changeAddress(op plan.Op, a plan.Address) error {
	k.fresh.routes = false // a connected route comes or goes with it
	doing, change, done := "adding", k.addAddress, unix.EEXIST
	if op == plan.Delete {
		doing, change, done = "deleting", k.handle.AddrDel, unix.EADDRNOTAVAIL
	}
	index, ok := k.links.byName[a.Dev]
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
	err := k.handle.AddrAdd(link, a)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := k.clearAddress(link, a); err != nil {
		return err
	}
	return k.handle.AddrAdd(link, a)
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
