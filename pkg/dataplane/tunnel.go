package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// tunnelOf returns a link as a tunnel of ours, if it is one: a VXLAN device with our mark. The
// name alone is not a mark.
func tunnelOf(l rtnl.Link) (topology.Tunnel, bool) {
	v, ok := l.(*rtnl.Vxlan)
	if !ok || v.Alias != topology.TunnelAlias {
		return topology.Tunnel{}, false
	}
	local, _ := netip.AddrFromSlice(v.SrcAddr)
	t := topology.Tunnel{
		Name: v.Name, VNI: v.VxlanId, Port: v.Port, Local: local.Unmap(), MTU: v.MTU, Up: v.Flags&net.FlagUp != 0, Odd: oddSettings(v),
	}
	copy(t.MAC[:], v.HardwareAddr)
	return t, true
}

// oddSettings returns a setting that differs from those of addTunnel, in ip-link(8)'s syntax.
func oddSettings(v *rtnl.Vxlan) string {
	switch {
	case v.Learning:
		return "learning"
	case len(v.Group) > 0 && !v.Group.IsUnspecified():
		return "remote " + v.Group.String()
	case v.VtepDevIndex != 0:
		return fmt.Sprintf("dev if%d", v.VtepDevIndex)
	case v.MasterIndex != 0:
		return fmt.Sprintf("master if%d", v.MasterIndex)
	case v.FlowBased:
		return "external"
	case v.Proxy:
		return "proxy"
	case v.RSC:
		return "rsc"
	case v.GBP:
		return "gbp"
	case v.TTL != 0: // a router drops packets with a low one
		return fmt.Sprintf("ttl %d", v.TTL)
	case v.UDP6ZeroCSumTx: // peers drop such packets (RFC 6936)
		return "udp6zerocsumtx"
	case v.UDP6ZeroCSumRx:
		return "udp6zerocsumrx"
	case !v.UDPCSum:
		return "noudpcsum"
	}
	return ""
}

// lostMark returns a link as a tunnel of ours that another program took the mark from: the same device
// was one before.
func (k *Kernel) lostMark(l rtnl.Link) (topology.Tunnel, bool) {
	v, ok := l.(*rtnl.Vxlan)
	if !ok || k.links == nil {
		return topology.Tunnel{}, false
	}
	marked := *v
	marked.Alias = topology.TunnelAlias
	was, known := k.links.tunnels[v.Index]
	t, _ := tunnelOf(&marked)
	t.Unmarked = true
	return t, known && t.VNI == was.VNI && t.MAC == was.MAC
}

// tunnelList returns our tunnels, sorted.
func (f *linkFacts) tunnelList() []topology.Tunnel {
	return slices.SortedFunc(maps.Values(f.tunnels), topology.Tunnel.Compare)
}

// addEnd keeps an address of a tunnel. The link-local ones are the kernel's.
func (f *linkFacts) addEnd(a rtnl.Addr) {
	t, ours := f.tunnels[a.LinkIndex]
	ip, ok := netip.AddrFromSlice(a.IP)
	if bits, _ := a.Mask.Size(); ours && ok && !ip.IsLinkLocalUnicast() {
		f.ends = append(f.ends, topology.Address{Dev: t.Name, Prefix: netip.PrefixFrom(ip.Unmap(), bits)})
	}
}

// errUnfiltered is returned for a tunnel that is not added because the table that filters it
// failed.
var errUnfiltered = errors.New("the tunnel is not made, because the nftables table that filters it can't be written")

// putTunnel adds or changes a tunnel. All that is on it is lost if it is recreated.
func (k *Kernel) putTunnel(t plan.Tunnel) (err error) {
	k.fresh.routes, k.fresh.peers = false, false
	if t.Recreates() {
		err = k.deleteTunnel(t.Was.Name)
	}
	switch {
	case err != nil:
	case t.Was.Name != "" && !t.Recreates():
		err = k.setTunnel(t.Tunnel)
	default:
		err = k.addTunnel(t.Tunnel)
	}
	if err != nil {
		return fmt.Errorf("making tunnel %s: %w", t.Name, err)
	}
	return nil
}

// unmarkedTunnel names a tunnel until it has our mark. The kernel takes no alias together with a
// new device, so without this an agent that is killed in between would leave a device with a
// tunnel's name that looks like another program's.
const unmarkedTunnel = "plainroute-new"

// removeUnmarked deletes what an interrupted addTunnel left.
func (k *Kernel) removeUnmarked() error {
	link, err := k.handle.LinkByName(unmarkedTunnel)
	switch {
	case errors.As(err, new(rtnl.LinkNotFoundError)):
		return nil
	case err == nil && link.Type() == topology.KindVXLAN:
		err = k.handle.LinkDel(link)
	case err == nil:
		err = fmt.Errorf("the device %s is of another kind, %s", unmarkedTunnel, kindOf(link))
	}
	return err
}

// addTunnel adds a device, marks it, and sets it up. The port is bound only then, and a port of
// another socket is an error of that step (vxlan_open of drivers/net/vxlan/vxlan_core.c).
func (k *Kernel) addTunnel(t topology.Tunnel) error {
	if err := k.removeUnmarked(); err != nil {
		return err
	}
	attrs := rtnl.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = unmarkedTunnel, t.MTU, t.MAC[:]
	err := k.handle.LinkAdd(&rtnl.Vxlan{LinkAttrs: attrs, VxlanId: t.VNI, SrcAddr: t.Local.AsSlice(), Port: t.Port, UDPCSum: true})
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: another VXLAN device has VNI %d and UDP port %d", err, t.VNI, t.Port)
	}
	if err != nil {
		return err
	}
	link, err := k.handle.LinkByName(unmarkedTunnel)
	if err != nil {
		return err
	}
	if err := k.handle.LinkSetAlias(link, topology.TunnelAlias); err != nil {
		return errors.Join(err, k.handle.LinkDel(link))
	}
	if err := k.handle.LinkSetName(link, t.Name); err != nil {
		return errors.Join(fmt.Errorf("naming it: %w", err), k.handle.LinkDel(link))
	}
	k.links.note(link.Attrs().Index, linkIdent{name: t.Name, mtu: t.MTU}, false)
	return k.setTunnelUp(link, t)
}

func (k *Kernel) setTunnelUp(link rtnl.Link, t topology.Tunnel) error {
	err := k.handle.LinkSetUp(link)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w: another program or VXLAN device has UDP port %d; choose one with --vxlan-port on all nodes", err, t.Port)
	}
	return err
}

// errForeignTunnel is returned for a device that has the name of a tunnel of ours and is not one.
var errForeignTunnel = errors.New("the device belongs to another program")

// ownTunnel returns a tunnel of ours. It restores the mark of one that lost it.
func (k *Kernel) ownTunnel(name string) (link rtnl.Link, t topology.Tunnel, err error) {
	if link, err = k.handle.LinkByName(name); err != nil {
		return nil, t, err
	}
	t, ours := tunnelOf(link)
	if ours {
		return link, t, nil
	}
	if t, ours = k.lostMark(link); !ours {
		return nil, t, errForeignTunnel
	}
	return link, t, k.handle.LinkSetAlias(link, topology.TunnelAlias)
}

// setTunnel changes what the kernel can change in place.
func (k *Kernel) setTunnel(t topology.Tunnel) error {
	link, have, err := k.ownTunnel(t.Name)
	if err != nil {
		return err
	}
	if have.Local != t.Local {
		local := request{kind: unix.RTM_NEWLINK, data: encodeLocal(link.Attrs().Index, t)}
		if err := errors.Join(errors.Join(k.rtnetlink.acknowledge([]request{local})...), k.renewEntries(t.Name)); err != nil {
			return fmt.Errorf("setting the local address: %w", err)
		}
	}
	if link.Attrs().HardwareAddr.String() != t.MAC.String() {
		if err := k.handle.LinkSetHardwareAddr(link, t.MAC[:]); err != nil {
			return err
		}
	}
	if link.Attrs().MTU != t.MTU {
		if err := k.handle.LinkSetMTU(link, t.MTU); err != nil {
			return err
		}
	}
	return k.setTunnelUp(link, t)
}

// encodeLocal returns struct ifinfomsg and the attributes that change a tunnel's own address. The
// kernel refuses a change that names the port, even the same one (vxlan_nl2conf), so the netlink
// library's LinkModify can't make it.
func encodeLocal(index int, t topology.Tunnel) []byte {
	kind := uint16(unix.IFLA_VXLAN_LOCAL)
	if t.Local.Is6() {
		kind = unix.IFLA_VXLAN_LOCAL6
	}
	data := appendAttribute(appendNumber(nil, unix.IFLA_VXLAN_ID, t.VNI), kind, t.Local.AsSlice())
	info := appendAttribute(nil, unix.IFLA_INFO_KIND, []byte("vxlan\x00\x00\x00"))
	info = appendAttribute(info, unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, data)
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return appendAttribute(b, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, info)
}

// deleteTunnel deletes a tunnel of ours, if it is still there.
func (k *Kernel) deleteTunnel(name string) error {
	link, _, err := k.ownTunnel(name)
	switch {
	case errors.As(err, new(rtnl.LinkNotFoundError)), errors.Is(err, errForeignTunnel):
		return nil
	case err != nil:
		return err
	}
	if err := k.handle.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}
