package topology

import "net/netip"

// Host is what this machine is, apart from what bears our mark.
type Host struct {
	Links []Link `json:"links"`
	// Routes are the main table's routes that are not ours, a multipath route as
	// one for each next hop.
	Routes []Route `json:"routes"`
	// Nameservers are those of resolv.conf(5); no pod subnet may hide them.
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
	// ConfigsBefore are the files of other CNI configs that the container runtime
	// takes before ours.
	ConfigsBefore []string `json:"configsBefore,omitempty"`
	// Ports counts the bridge's ports: pods that are attached to it.
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
	// Addrs are its addresses with their prefix lengths, link-local ones too.
	Addrs []netip.Prefix `json:"addrs"`
	// RouterAdvertised tells that an address or a route of it came by router
	// advertisement (RFC 4861), which the kernel drops when forwarding starts
	// unless accept_ra is 2.
	RouterAdvertised bool `json:"routerAdvertised,omitempty"`
	// Loopback tells the device lo.
	Loopback bool `json:"loopback,omitempty"`
}

// linkWith returns the link that bears the address.
func (h Host) linkWith(addr netip.Addr) (Link, bool) {
	for _, link := range h.Links {
		for _, p := range link.Addrs {
			if p.Addr() == addr {
				return link, true
			}
		}
	}
	return Link{}, false
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
