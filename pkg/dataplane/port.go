package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// devices returns the bridge, its ports, and detached ports of pods.
func (f *linkFacts) devices(bridge string) []topology.Device {
	master, there := f.byName[f.bridge(bridge)]
	var all []topology.Device
	for index, id := range f.idents {
		d := topology.Device{Name: id.name, Up: id.up, Pod: f.pods[index]}
		if d.Pod.IsValid() {
			d.Known, d.Duplicate = f.seen[index], f.idents[f.conflicts[index]].name
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

// setDevice puts a port into the bridge, and sets a device up.
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
		if err := k.attach(link, master); err != nil {
			return err
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

// attach puts a port into the bridge of an index. Hairpin mode, in which a pod reaches itself by a
// Service, ends with the membership.
func (k *Kernel) attach(port rtnl.Link, bridge int) error {
	if err := k.handle.LinkSetMasterByIndex(port, bridge); err != nil {
		return err
	}
	if err := k.handle.LinkSetHairpin(port, true); err != nil {
		// A port that is in the bridge is left as it is by later passes.
		return errors.Join(err, k.handle.LinkSetNoMaster(port))
	}
	return nil
}

// addLinkLocal adds the IPv6 link-local address that the kernel would make of the bridge's MAC
// address (RFC 4291, appendix A) only once a port is up and after a second or two of duplicate
// address detection, during which no pod can be resolved. If the kernel was first, as when IPv6 is
// switched on again, its address is replaced by one that is usable at once.
func (k *Kernel) addLinkLocal(link rtnl.Link, d topology.Device) error {
	mac, _ := net.ParseMAC(d.MAC)
	if !d.LinkLocal || len(mac) != 6 || k.links.local6 {
		return nil
	}
	ip := [16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	if err := k.addAddress(link, &rtnl.Addr{IPNet: ipNet(netip.PrefixFrom(netip.AddrFrom16(ip), 64))}); err != nil {
		return err
	}
	return k.awaitLocal(link, ip[:])
}

// awaitLocal waits until the kernel accepts packets to a new IPv6 address of the bridge. It does so
// from a work queue (addrconf_dad_work of net/ipv6/addrconf.c), mostly within 10 ms. With the
// addresses that are added next the kernel resolves pods: earlier answers are lost, and it asks
// again only after a second.
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

// Names of the two ends of a trial's veth pair.
const (
	trialPort = "plainroute-try0"
	trialPod  = "plainroute-try1"
)

// A trial's result depends on the bridge, by its index, and the MTU.
type trial struct{ bridge, mtu int }

// tryPort makes what the bridge plugin is going to make for each pod, and deletes it: a veth pair
// with the config's MTU, one end of which is in the bridge and in hairpin mode. The plugin moves
// the other end to the pod's network namespace, which takes CAP_SYS_ADMIN; this takes
// CAP_NET_ADMIN. Both ends stay down, so no packet is sent. A successful trial is not repeated for
// the same bridge and MTU.
func (k *Kernel) tryPort(conf topology.CNI) error {
	index, there := k.links.byName[k.links.bridge(conf.Bridge)]
	if !there || k.tried == (trial{index, conf.MTU}) {
		return nil // a missing bridge is another Problem
	}
	failed := func(step string, err error) error {
		return fmt.Errorf("trying to make a pod's port: %s: %w", step, err)
	}
	if err := k.removeTrial(); err != nil {
		return failed("removing what an earlier agent left", err)
	}
	attrs := rtnl.NewLinkAttrs()
	attrs.Name, attrs.MTU = trialPort, conf.MTU
	port := &rtnl.Veth{LinkAttrs: attrs, PeerName: trialPod}
	if err := k.handle.LinkAdd(port); err != nil { // which sets its index
		return failed(fmt.Sprintf("adding a veth device with an MTU of %d", conf.MTU), err)
	}
	if err := errors.Join(k.attach(port, index), k.removeTrial()); err != nil {
		return failed("putting a veth device into "+conf.Bridge, err)
	}
	k.tried = trial{index, conf.MTU}
	return nil
}

// removeTrial deletes the veth pair of a trial, if there is one.
func (k *Kernel) removeTrial() error {
	port, err := k.handle.LinkByName(trialPort)
	switch {
	case errors.As(err, new(rtnl.LinkNotFoundError)):
		return nil
	case err != nil:
		return err
	case port.Type() != topology.KindVeth:
		return fmt.Errorf("the device %s is of another kind, %s", trialPort, kindOf(port))
	}
	if err = k.handle.LinkDel(port); errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// Sweep deletes what an interrupted Apply left. The caller has the agent's lock. Apply reports what
// can't be deleted.
func (k *Kernel) Sweep() { _ = errors.Join(k.removeTrial(), k.removeUnmarked()) }
