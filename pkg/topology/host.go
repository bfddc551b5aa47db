package topology

import "net/netip"

// Host is what this machine is, apart from what bears our mark.
type Host struct {
	Links []Link `json:"links"`
	// Routes are the main table's routes that are not ours, a multipath route as
	// one for each next hop.
	Routes []Route `json:"routes"`
	// NoIPv6 reports that the kernel knows no IPv6 at all (ipv6.disable=1, or not compiled in): no
	// setting, no address and no socket of it exists.
	NoIPv6 bool `json:"noIPv6,omitempty"`
	// Nameservers are those of resolv.conf(5); no pod subnet may hide them.
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
	// ConfigsBefore are the files of other CNI configs that the container runtime
	// takes before ours.
	ConfigsBefore []string `json:"configsBefore,omitempty"`
	// Plugins are to be chained after our own: those of drop-in files, then those that other
	// programs appended to our config.
	Plugins []Plugin `json:"plugins,omitempty"`
	// PluginFaults say which drop-in files are left out, and why.
	PluginFaults []string `json:"pluginFaults,omitempty"`
	// CNI11 are the CNI plugins that accept version 1.1.0 of the CNI spec.
	CNI11 []string `json:"cni11,omitempty"`
	// UnfitPlugins says, by their names, why the container runtime can't execute CNI plugins
	// that a config of ours may call.
	UnfitPlugins map[string]string `json:"unfitPlugins,omitempty"`
	// Ports counts the bridge's ports and the ports of pods that are not in the bridge.
	Ports int `json:"ports,omitempty"`
	// Leases are the addresses that pods of this host hold, or held when they were
	// killed with nobody to detach them.
	Leases []netip.Addr `json:"leases,omitempty"`
	// Unseen is what of this host can't be read or watched just now, in words.
	Unseen []string `json:"unseen,omitempty"`
	// TableUnread says why our nftables table can't be read; empty: it can. What is
	// known of the table is then what it was before.
	TableUnread string `json:"tableUnread,omitempty"`
}

// Link is a network device.
type Link struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"`
	// Kind is the kernel's kind of link (IFLA_INFO_KIND), such as bridge, veth or vlan;
	// hardware has the kind device. Empty: not known.
	Kind string `json:"kind,omitempty"`
	// MAC is a bridge's MAC address. Empty: not known, or the link is no bridge.
	MAC string `json:"mac,omitempty"`
	// Enslaved reports whether the link has a master: it is a port of a bridge, a slave
	// of a bond or a member of a VRF.
	Enslaved bool `json:"enslaved,omitempty"`
	// Addrs are its addresses with their prefix lengths, link-local ones too.
	Addrs []netip.Prefix `json:"addrs"`
	// RouterAdvertised tells that an address or a route of it came by router
	// advertisement (RFC 4861), which the kernel drops when forwarding starts
	// unless accept_ra is 2.
	RouterAdvertised bool `json:"routerAdvertised,omitempty"`
	// Loopback tells the device lo.
	Loopback bool `json:"loopback,omitempty"`
}

// Kinds of links (IFLA_INFO_KIND).
const (
	KindBridge = "bridge"
	KindVeth   = "veth"
	KindDummy  = "dummy"
)

// FacesGuests reports whether links of a kind usually lead to guests of this host, such as
// containers and virtual machines. A guest must not be able to act as this host's router.
func FacesGuests(kind string) bool {
	switch kind {
	case KindBridge, KindVeth, "netkit", "tun", "macvtap", "ipvtap":
		return true
	}
	return false
}

// linkWith returns the link that bears the address. Where several do, it is one that has it
// with its network: kube-proxy's kube-ipvs0 may have an InternalIP too, as a single address.
func (h Host) linkWith(addr netip.Addr) (found Link, ok bool) {
	for _, link := range h.Links {
		for _, p := range link.Addrs {
			switch {
			case p.Addr() != addr:
			case !p.IsSingleIP():
				return link, true
			case !ok || found.Name == ipvsDevice:
				found, ok = link, true
			}
		}
	}
	return found, ok
}

// globals counts the link's addresses of a family that the kernel may choose
// as the source of routed packets.
func (l Link) globals(is4 bool) int {
	n := 0
	for _, p := range l.Addrs {
		if p.Addr().Is4() == is4 && !p.Addr().IsLinkLocalUnicast() {
			n++
		}
	}
	return n
}
