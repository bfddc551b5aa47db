package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// devices returns the bridge, its ports, and those of pods that are out of it.
func (f *linkFacts) devices(bridge string) []topology.Device {
	master, there := f.byName[f.bridge(bridge)]
	var all []topology.Device
	for index, id := range f.idents {
		d := topology.Device{Name: id.name, Up: id.up, Pod: f.pods[index]}
		if d.Pod.IsValid() {
			d.Known, d.Duplicate = f.seen[index], f.idents[f.rivals[index]].name
		}
		if id.master != 0 {
			d.Master = f.name(id.master)
		}
		switch {
		case there && index == master:
			d.MAC, d.MTU, d.NoARP, d.LinkLocal = f.mac, id.mtu, id.noARP, f.local6
			all = append(all, d)
		case d.Pod.IsValid(), there && id.master == master && id.up:
			all = append(all, d)
		}
	}
	slices.SortFunc(all, topology.Device.Compare)
	return all
}

// setDevices puts ports into the bridge and sets devices up, the bridge last: if it has a port
// by then, it sends at once, and else after the kernel has looked at its carrier, which it does
// once a second (dev_activate of net/sched/sch_generic.c). A device that is not there any more
// is done, because its pod has gone.
func (k *Kernel) setDevices(devices []plan.Device) error {
	var errs []error
	slices.SortStableFunc(devices, func(a, b plan.Device) int { return cmp.Compare(b.Master, a.Master) })
	for _, d := range devices {
		k.fresh.routes = false
		if err := k.setDevice(d.Device); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, part(d, fmt.Errorf("setting %s: %w", d, err)))
		}
	}
	return errors.Join(errs...)
}

func (k *Kernel) setDevice(d topology.Device) error {
	index, ok := k.links.byName[d.Name]
	if !ok {
		return unix.ENODEV
	}
	link := &rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: index}}
	if d.Master != "" && k.links.name(k.links.idents[index].master) != d.Master {
		master, ok := k.links.byName[d.Master]
		if !ok {
			return errNoDevice
		}
		// Hairpin mode, in which a pod reaches itself by a Service, ends with the membership.
		if err := k.handle.LinkSetMasterByIndex(link, master); err != nil {
			return err
		}
		if err := k.handle.LinkSetHairpin(link, true); err != nil {
			// A port that is in the bridge is left as it is by later passes.
			return errors.Join(err, k.handle.LinkSetNoMaster(link))
		}
	}
	if err := k.setAddress(link, d); err != nil {
		return err
	}
	if err := k.handle.LinkSetUp(link); err != nil {
		return err
	}
	return k.addLinkLocal(link, d)
}

// addLinkLocal gives the bridge the IPv6 link-local address that the kernel would make of its
// MAC address (RFC 4291, appendix A) later: once a port is up, and after it has looked for
// duplicates for a second or two, in which no pod is found. Where the kernel was first, as when
// IPv6 is switched on again, its address is replaced by one that is usable at once.
func (k *Kernel) addLinkLocal(link rtnl.Link, d topology.Device) error {
	mac, _ := net.ParseMAC(d.MAC)
	if !d.LinkLocal || len(mac) != 6 || k.links.local6 {
		return nil
	}
	ip := [16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	addr := &rtnl.Addr{IPNet: ipNet(netip.PrefixFrom(netip.AddrFrom16(ip), 64)), Flags: unix.IFA_F_NODAD}
	err := k.handle.AddrAdd(link, addr)
	if errors.Is(err, unix.EEXIST) {
		err = errors.Join(k.handle.AddrDel(link, addr), k.handle.AddrAdd(link, addr))
	}
	if err != nil {
		return err
	}
	return k.awaitLocal(link, ip[:])
}

// awaitLocal waits until the kernel takes packets to a new IPv6 address of the bridge, which it
// does from a work queue (addrconf_dad_work of net/ipv6/addrconf.c), mostly within 10 ms. With the
// addresses that come next it asks pods for their MAC addresses: answers that arrive too early are
// lost, and it asks again after a second only.
func (k *Kernel) awaitLocal(link rtnl.Link, ip net.IP) error {
	const limit, pause = time.Second, 200 * time.Microsecond
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(pause) {
		routes, err := k.handle.RouteGetWithOptions(ip, &rtnl.RouteGetOptions{OifIndex: link.Attrs().Index})
		switch {
		case err != nil:
			return fmt.Errorf("looking up %s: %w", ip, err)
		case len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL:
			return nil
		}
	}
	return nil
}
