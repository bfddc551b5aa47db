package topology

import (
	"net/netip"
	"slices"
)

// Host is the state of this machine except for marked objects.
type Host struct {
	Links  []Link  `json:"links"`
	Routes []Route `json:"routes"` // the main table's foreign routes, with one entry for each next hop
	// RouteTable is the table with our routes, if that is not main.
	RouteTable *RouteTable `json:"routeTable,omitempty"`
	// NoIPv6 reports that the kernel lacks IPv6 (ipv6.disable=1, or not compiled in), with its
	// settings, addresses and sockets.
	NoIPv6         bool         `json:"noIPv6,omitempty"`
	Nameservers    []netip.Addr `json:"nameservers,omitempty"`    // of resolv.conf(5); a pod subnet must not hide them
	ConfigsBefore  []string     `json:"configsBefore,omitempty"`  // other CNI configs that the runtime takes before ours
	Plugins        []Plugin     `json:"plugins,omitempty"`        // of drop-in files, then those appended to our config
	PluginProblems []string     `json:"pluginProblems,omitempty"` // the drop-in files that are left out, with the reason
	CNI11          []string     `json:"cni11,omitempty"`          // the CNI plugins that accept version 1.1.0 of the spec
	// UnfitPlugins has, by name, why the container runtime can't execute CNI plugins that a config
	// of ours may call.
	UnfitPlugins map[string]string `json:"unfitPlugins,omitempty"`
	Ports        int               `json:"ports,omitempty"`  // of the bridge, and of pods outside of the bridge
	Leases       []netip.Addr      `json:"leases,omitempty"` // of host-local, also of pods that died without a DEL
	Unseen       []string          `json:"unseen,omitempty"` // what can't be read or watched at the moment
	// TableUnread is why our nftables table can't be read; empty: it can. Otherwise the actual
	// State has the table as it was read last.
	TableUnread string `json:"tableUnread,omitempty"`
}

// Link is a network device.
type Link struct {
	Name     string         `json:"name"`
	MTU      int            `json:"mtu"`
	Kind     string         `json:"kind,omitempty"`     // IFLA_INFO_KIND, or device for hardware; empty: unknown
	MAC      string         `json:"mac,omitempty"`      // of a bridge; empty: unknown, or not a bridge
	Enslaved bool           `json:"enslaved,omitempty"` // it has a master: a bridge, a bond or a VRF
	VRF      string         `json:"vrf,omitempty"`      // that one, if it is a VRF, whose routes are in a table of its own
	VRFTable int            `json:"vrfTable,omitempty"` // the number of that table
	Addrs    []netip.Prefix `json:"addrs"`              // with their prefix lengths, including link-local ones
	// RouterAdvertised reports whether it has an address or a route from a router advertisement
	// (RFC 4861), which the kernel drops when forwarding starts unless accept_ra is 2.
	RouterAdvertised bool `json:"routerAdvertised,omitempty"`
	Loopback         bool `json:"loopback,omitempty"` // it is lo
	// NoCarrier reports that the other end of the link is down or away. It is unknown of bridges.
	NoCarrier bool `json:"noCarrier,omitempty"`
	// PointToPoint reports that packets on the link have no address of the next hop
	// (IFF_POINTOPOINT), as in PPP, WireGuard and Tailscale.
	PointToPoint bool `json:"pointToPoint,omitempty"`
	// VNI and VXLANPort are those of a VXLAN device of another program; 0: it is none.
	VNI       int `json:"vni,omitempty"`
	VXLANPort int `json:"vxlanPort,omitempty"`
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

// linkWith returns the link with the address, and the prefix that it has it with; the zero Prefix:
// none. If there are several, it is one that has it with its network: kube-proxy's kube-ipvs0 may
// have an InternalIP too, as a single address.
func (h Host) linkWith(addr netip.Addr) (found Link, as netip.Prefix) {
	for _, link := range h.Links {
		for _, p := range link.Addrs {
			switch {
			case p.Addr() != addr:
			case !p.IsSingleIP():
				return link, p
			case found.Name == "" || found.Name == ipvsDevice:
				found, as = link, p
			}
		}
	}
	return found, as
}

// hasBesideOthers reports whether the link has an address, and more of its family.
func (l Link) hasBesideOthers(addr netip.Addr) (has bool) {
	choice := 0
	for _, p := range l.Addrs {
		has = has || p.Addr() == addr
		if p.Addr().Is4() == addr.Is4() && !p.Addr().IsLinkLocalUnicast() {
			choice++
		}
	}
	return has && choice > 1
}
