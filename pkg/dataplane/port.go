package dataplane

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// findPods finds the ports of pods that are down or not in the bridge. Such a port bears no
// mark of ours. It is a pod's if the other end, in another network namespace, has an address
// for which host-local holds a lease of our network. That is known after a restart of the
// agent too, and true of no other network's ports. All others are left alone.
func (k *Kernel) findPods(links []rtnl.Link, facts *linkFacts) {
	bridge, there := facts.byName[k.cfg.Bridge]
	var leases []netip.Addr
	for _, l := range links {
		a := l.Attrs()
		attached := there && a.MasterIndex == bridge && a.Flags&net.FlagUp != 0
		if attached || a.NetNsID < 0 || facts.kinds[a.Name] != topology.KindVeth {
			continue
		}
		if leases == nil {
			leases = k.cfg.CNI.Leases()
		}
		if len(leases) == 0 {
			return
		}
		for _, addr := range k.peerAddrs(a.NetNsID, a.ParentIndex) {
			if slices.Contains(leases, addr) && !facts.pods[a.Index].IsValid() {
				facts.pods[a.Index] = addr
			}
		}
	}
}

// peerAddrs returns the addresses of a device in another network namespace, IPv4 ones first.
// There are none if the kernel does not tell, because the device has gone or CAP_NET_ADMIN
// is lacking over there.
func (k *Kernel) peerAddrs(namespace, index int) []netip.Addr {
	var addrs []netip.Addr
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		ask := request{kind: unix.RTM_GETADDR, flags: unix.NLM_F_DUMP, data: encodeAddrRequest(family, namespace, index)}
		_, _ = k.rtnetlink.read(ask, func(kind uint16, data []byte) {
			if addr, ok := parsePeerAddr(kind, data, family, namespace, index); ok {
				addrs = append(addrs, addr)
			}
		})
	}
	return addrs
}

// encodeAddrRequest makes struct ifaddrmsg (rtnetlink(7)) with the number by which this
// network namespace knows another (IFA_TARGET_NETNSID of linux/if_addr.h, kernel 4.20).
func encodeAddrRequest(family uint8, namespace, index int) []byte {
	b := []byte{family, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return appendAttribute(b, unix.IFA_TARGET_NETNSID, binary.NativeEndian.AppendUint32(nil, uint32(namespace)))
}

// parsePeerAddr reads an address of the device. A kernel that does not know the attribute of
// the namespace answers for this one, without the attribute.
func parsePeerAddr(kind uint16, b []byte, family uint8, namespace, index int) (addr netip.Addr, ok bool) {
	if kind != unix.RTM_NEWADDR || len(b) < unix.SizeofIfAddrmsg || b[0] != family || int(binary.NativeEndian.Uint32(b[4:])) != index {
		return addr, false
	}
	attrs, err := netlink.NewAttributeDecoder(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return addr, false
	}
	local := false
	for attrs.Next() {
		switch attrs.Type() {
		case unix.IFA_TARGET_NETNSID:
			ok = int(attrs.Int32()) == namespace
		case unix.IFA_LOCAL:
			addr, _ = netip.AddrFromSlice(attrs.Bytes())
			local = true
		case unix.IFA_ADDRESS: // the other end's, where a link is point-to-point
			if !local {
				addr, _ = netip.AddrFromSlice(attrs.Bytes())
			}
		}
	}
	return addr, ok && attrs.Err() == nil
}

// devices returns the bridge, its ports, and those of pods that are out of it.
func (f *linkFacts) devices(bridge string) []topology.Device {
	master, there := f.byName[f.bridge(bridge)]
	var all []topology.Device
	for index, id := range f.idents {
		d := topology.Device{Name: id.name, Up: id.up, Pod: f.pods[index]}
		if id.master != 0 {
			d.Master = f.name(id.master)
		}
		switch {
		case there && index == master:
			d.MAC, d.MTU, d.LinkLocal = f.mac, id.mtu, f.local6
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
func (k *Kernel) setDevices(devices []topology.Device) error {
	var errs []error
	devices = slices.Clone(devices)
	slices.SortStableFunc(devices, func(a, b topology.Device) int { return cmp.Compare(b.Master, a.Master) })
	for _, d := range devices {
		k.fresh.routes = false
		if err := k.setDevice(d); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, part(plan.KindDevice, d.Name, fmt.Errorf("setting %s: %w", d, err)))
		}
	}
	return errors.Join(errs...)
}

func (k *Kernel) setDevice(d topology.Device) error {
	index, ok := k.links.byName[d.Name]
	if !ok {
		return unix.ENODEV
	}
	link := &rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: index, Name: d.Name}}
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
			return err
		}
	}
	if err := k.handle.LinkSetUp(link); err != nil {
		return err
	}
	return k.addLinkLocal(link, d)
}

// addLinkLocal gives the bridge the IPv6 link-local address that the kernel would make of its
// MAC address (RFC 4291, appendix A) later: once a port is up, and after it has looked for
// duplicates for a second or two, in which no pod is found.
func (k *Kernel) addLinkLocal(link rtnl.Link, d topology.Device) error {
	mac, err := net.ParseMAC(d.MAC)
	if !d.LinkLocal || err != nil || len(mac) != 6 || k.links.local6 {
		return nil
	}
	ip := [16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	addr := &rtnl.Addr{IPNet: ipNet(netip.PrefixFrom(netip.AddrFrom16(ip), 64)), Flags: unix.IFA_F_NODAD}
	if err := k.handle.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
