package topology

import (
	"net/netip"
	"slices"
)

// Host is the state of this machine except for marked objects.
type Host struct {
	Links []Link `json:"links"`
	// Routes are the main table's foreign routes, with one entry for each next hop.
	Routes []Route `json:"routes"`
	// NoIPv6 reports that the kernel lacks IPv6 (ipv6.disable=1, or not compiled in), with its
	// settings, addresses and sockets.
	NoIPv6 bool `json:"noIPv6,omitempty"`
	// Nameservers are those of resolv.conf(5); a pod subnet must not hide them.
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
	// ConfigsBefore are the other CNI configs that the container runtime takes before ours.
	ConfigsBefore []string `json:"configsBefore,omitempty"`
	// Plugins are chained after our own: those of drop-in files, then those that other programs
	// appended to our config.
	Plugins []Plugin `json:"plugins,omitempty"`
	// PluginProblems name the drop-in files that are left out, with the reason.
	PluginProblems []string `json:"pluginFaults,omitempty"`
	// CNI11 are the CNI plugins that accept version 1.1.0 of the CNI spec.
	CNI11 []string `json:"cni11,omitempty"`
	// UnfitPlugins has, by name, why the container runtime can't execute CNI plugins that a config
	// of ours may call.
	UnfitPlugins map[string]string `json:"unfitPlugins,omitempty"`
	// Ports counts the bridge's ports, and ports of pods outside of the bridge.
	Ports int `json:"ports,omitempty"`
	// Leases are the addresses that host-local has leased, also to pods that died without a DEL.
	Leases []netip.Addr `json:"leases,omitempty"`
	// Unseen names what can't be read or watched on this host at the moment.
	Unseen []string `json:"unseen,omitempty"`
	// TableUnread is why our nftables table can't be read; empty: it can. Otherwise the actual
	// State has the table as it was read last.
	TableUnread string `json:"tableUnread,omitempty"`
}

// Link is a network device.
type Link struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"`
	// Kind is the kernel's kind of link (IFLA_INFO_KIND), such as bridge, veth or vlan, or device
	// for hardware. Empty: unknown.
	Kind string `json:"kind,omitempty"`
	// MAC is a bridge's MAC address. Empty: unknown, or not a bridge.
	MAC string `json:"mac,omitempty"`
	// Enslaved reports whether the link has a master: a bridge, a bond or a VRF.
	Enslaved bool `json:"enslaved,omitempty"`
	// Addrs are its addresses with their prefix lengths, including link-local ones.
	Addrs []netip.Prefix `json:"addrs"`
	// RouterAdvertised reports whether it has an address or a route from a router advertisement
	// (RFC 4861), which the kernel drops when forwarding starts unless accept_ra is 2.
	RouterAdvertised bool `json:"routerAdvertised,omitempty"`
	// Loopback is set on the device lo.
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
	return slices.Contains([]string{KindBridge, KindVeth, "netkit", "tun", "macvtap", "ipvtap"}, kind)
}

// linkWith returns the link with the address. If there are several, it is one that has it with its
// network: kube-proxy's kube-ipvs0 may have an InternalIP too, as a single address.
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
