package topology

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Device is the pods' bridge, or the port of a pod. It is comparable with ==.
type Device struct {
	Name   string `json:"name"`
	Master string `json:"master,omitempty"` // the bridge that a port is in; empty: none
	Up     bool   `json:"up"`               // IFF_UP
	// MAC and MTU (in bytes) are the bridge's. A changed MAC address is restored, because running
	// pods have it in their neighbor tables; a changed MTU only if it is too small for IPv6.
	MAC   string `json:"mac,omitempty"`
	MTU   int    `json:"mtu,omitempty"`
	NoARP bool   `json:"noARP,omitempty"` // IFF_NOARP of the bridge: no neighbor discovery
	// LinkLocal reports whether the bridge has an IPv6 link-local address that passed duplicate
	// address detection. Without one the kernel can't resolve the MAC address of a pod
	// (ndisc_send_ns of net/ipv6/ndisc.c).
	LinkLocal bool       `json:"linkLocal,omitempty"`
	Pod       netip.Addr `json:"pod,omitzero"`    // of the pod behind a port that is down or not in the bridge
	Known     bool       `json:"known,omitempty"` // this process itself has seen the port in the bridge
	// Duplicate is another such port whose pod has the same address; empty: none. A container of
	// another network may have given itself that address.
	Duplicate string `json:"duplicate,omitempty"`
}

// Compare orders devices by name.
func (d Device) Compare(e Device) int { return cmp.Compare(d.Name, e.Name) }

// Like reports whether a device needs no change to become another one of its name.
func (d Device) Like(e Device) bool {
	return d.Master == e.Master && d.Up == e.Up && d.LinkLocal == e.LinkLocal && d.NoARP == e.NoARP && d.MAC == e.MAC && d.MTU == e.MTU
}

// String returns the device in the syntax of ip-link(8).
func (d Device) String() string {
	s := "dev " + d.Name
	if d.Master != "" {
		s += " master " + d.Master
	}
	if d.Up {
		return s + " up"
	}
	return s + " down"
}

// otherKind returns the kind of the device that has the bridge's name, if it is not a bridge, or "".
func (b *builder) otherKind() string {
	i := slices.IndexFunc(b.host.Links, func(l Link) bool { return l.Name == b.opts.Bridge && l.Kind != KindBridge && l.Kind != "" })
	if i < 0 || b.opts.Router {
		return ""
	}
	return b.host.Links[i].Kind
}

// bridge computes the bridge with its ports and addresses, once the subnets of the CNI config are
// known. It is made before the first pod comes, because the stock plugin can't make one where the
// host disables IPv6 on new devices, and never checks its state again.
func (b *builder) bridge() {
	b.desired.Bridge, b.desired.Devices, b.desired.Addresses = b.actual.Bridge, b.actual.Devices, b.actual.Addresses
	b.desired.mac = b.actual.mac
	conf := b.desired.CNI
	if b.otherKind() != "" || b.renamed != "" || b.opts.Router || conf == nil || len(conf.Subnets) == 0 || conf.Bridge != b.opts.Bridge {
		return
	}
	elsewhere := func(p netip.Prefix) bool {
		link, as := b.host.linkWith(Gateway(p))
		return as.IsValid() && link.Name != conf.Bridge
	}
	if b.actual.Bridge == "" && slices.ContainsFunc(conf.Subnets, elsewhere) {
		return // a bridge of another network, which may have pods; a second one would divert their packets
	}
	b.desired.Bridge = conf.Bridge
	b.devices(conf)
	b.bridgeSysctls(conf)
	b.addresses(conf)
}

// RenamedBridge returns the name of the pods' bridge if no device has its old name, or "". It is
// identified by its MAC address: the given one, or one that is derived from a subnet.
func (h Host) RenamedBridge(old string, subnets []netip.Prefix, mac string) string {
	name := ""
	for _, link := range h.Links {
		ours := link.MAC == mac || slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return link.MAC == bridgeMAC(p) })
		if link.Name == old {
			return ""
		}
		if link.Kind == KindBridge && link.MAC != "" && ours {
			name = link.Name
		}
	}
	return name
}

func (h Host) without(dev string) Host {
	h.Links = slices.DeleteFunc(slices.Clone(h.Links), func(l Link) bool { return l.Name == dev })
	h.Routes = slices.DeleteFunc(slices.Clone(h.Routes), func(r Route) bool { return r.Dev == dev })
	return h
}

// devices computes the bridge and its ports: all are up, and ports of pods are in the bridge. The
// bridge keeps its MAC address, and its MTU unless it is too small for IPv6, which the kernel then
// removes from the device (addrconf_notify of net/ipv6/addrconf.c).
func (b *builder) devices(conf *CNI) {
	own := Device{Name: conf.Bridge, MAC: bridgeMAC(conf.Subnets[0]), MTU: conf.MTU}
	var ports []Device
	for _, d := range b.actual.Devices {
		if d.Name == conf.Bridge {
			own = d
			continue
		}
		ports = append(ports, b.port(d, conf.Bridge))
	}
	if own.Master != "" {
		b.ownProblem(problem.BridgeFailed, "the bridge %s is in %s, so pods are cut off; take it out: ip link set dev %s nomaster", own.Name, own.Master, own.Name)
	}
	has6 := hasFamily(conf.Subnets, false)
	own.Up, own.NoARP, own.LinkLocal = true, false, own.LinkLocal || has6
	if has6 && own.MTU != 0 && own.MTU < minMTU6 {
		own.MTU = max(conf.MTU, minMTU6)
	}
	own.MAC = cmp.Or(b.actual.mac, own.MAC, bridgeMAC(conf.Subnets[0])) // a bridge without ports may lack one
	b.desired.mac = own.MAC
	ports = append(ports, own)
	b.desired.Devices = ports
	slices.SortFunc(b.desired.Devices, Device.Compare)
}

// port computes a pod's port. If it is in another bridge, it stays there. Only if the agent itself
// has seen it in our bridge, the pod behind it is certainly ours: a container of another network
// may use a leased address.
func (b *builder) port(d Device, bridge string) Device {
	p := problem.Problem{Subject: problem.Node(b.opts.NodeName), Reason: problem.BridgeFailed}
	switch {
	case d.Duplicate != "":
		p.Message = fmt.Sprintf("%s and %s both lead to a container with the address %s, which a pod leased, so neither is put into %s; take the address from the one that is not a pod's", d.Name, d.Duplicate, d.Pod, bridge)
	case d.Master == "" || d.Master == bridge:
		return Device{Name: d.Name, Master: bridge, Up: true}
	case d.Known:
		p.Message = fmt.Sprintf("%s, the port of the pod %s, is in %s instead of %s, where no route leads to it; put it back: ip link set dev %s master %s; ip link set dev %s type bridge_slave hairpin on", d.Name, d.Pod, d.Master, bridge, d.Name, bridge, d.Name)
	default:
		p.Message = fmt.Sprintf("%s leads to a container with the address %s, which a pod leased, and is in %s instead of %s; it is left there, because another network's container may have given itself that address: check which container it is", d.Name, d.Pod, d.Master, bridge)
	}
	b.report(p.Blocking(d.Known && d.Duplicate == ""))
	return d
}

// bridgeMAC derives the bridge's MAC address from a pod subnet, so that a new bridge has the same
// one and the neighbor tables of running pods stay valid. It is unicast and locally administered
// (IEEE 802, 48-bit universal LAN MAC addresses).
func bridgeMAC(subnet netip.Prefix) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(subnet.String())) // a hash.Hash never fails
	sum := h.Sum(nil)
	return fmt.Sprintf("0a:58:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3])
}

// addresses computes the bridge's addresses: the gateway of each subnet of the config. Gateways of
// former subnets are removed; all other addresses are left alone.
func (b *builder) addresses(conf *CNI) {
	addrs := make([]Address, 0, len(conf.Subnets)+len(b.actual.Addresses))
	for _, p := range conf.Subnets {
		addrs = append(addrs, Address{conf.Bridge, netip.PrefixFrom(Gateway(p), p.Bits())})
	}
	for _, a := range b.actual.Addresses {
		switch {
		case a.Dev != conf.Bridge, slices.Contains(addrs, a):
		case b.gateway(a.Prefix), slices.Contains(b.actual.retired, a):
			b.desired.retired = append(b.desired.retired, a)
		default:
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, Address.Compare)
	b.desired.Addresses = addrs
}

// gateway reports whether an address is one that the stock plugin gives a bridge for a pod subnet
// of this cluster: the first address of a subnet of the existing config, inside --cluster-cidr, or
// with addresses that host-local leased.
func (b *builder) gateway(p netip.Prefix) bool {
	subnet := p.Masked()
	switch {
	case p.Addr() != Gateway(subnet):
		return false
	case slices.Contains(b.attached, subnet):
		return true
	}
	lengths, inside := b.validator.lengths(subnet)
	return lengths.has(subnet.Bits()) &&
		(inside && len(b.opts.ClusterCIDRs) > 0 || slices.ContainsFunc(b.host.Leases, subnet.Contains))
}

// Gateway returns the address that host-local reserves for the gateway of a subnet: the first.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }
