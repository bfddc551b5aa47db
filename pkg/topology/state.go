package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// State is what plainroute makes of a host; desired and actual are the same
// type. The zero State means that nothing of ours is there.
type State struct {
	// Sysctls by their path below /proc/sys. The actual State has all that could
	// matter, the desired one those that must have a certain value.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Bridge is the name of the pods' bridge; empty: there is none. The agent makes it
	// and never removes it.
	Bridge string `json:"bridge,omitempty"`
	// Devices are the bridge and the ports of pods, sorted by name. The actual State
	// also has a pod's port that is not in the bridge.
	Devices []Device `json:"devices,omitempty"`
	// Addresses are those of the bridge, sorted. Only the agent repairs them: after
	// `ip addr del`, CNI's CHECK still says fine.
	Addresses []Address `json:"addresses,omitempty"`
	// Routes are sorted by Compare and unique by their key.
	Routes []Route `json:"routes,omitempty"`
	// Masquerade is our nftables table; nil: none.
	Masquerade *Masquerade `json:"masquerade,omitempty"`
	// CNI is our CNI config; nil: none.
	CNI *CNI `json:"cni,omitempty"`

	granted []claim   // who has which pod subnet, sorted by subnet
	retired []Address // gateways of former subnets, which are to go
	mac     string    // of the bridge; running pods have it in their neighbor tables
}

// After returns what is there in the light of what was desired before: whom a pod
// subnet was granted to is not written in the kernel, which knows a Node by its
// address alone, and that may change; nor which of the bridge's addresses was a
// gateway of ours, once the config has followed; nor the MAC address of a bridge that
// was deleted.
func (s State) After(desired State) State {
	s.granted, s.retired, s.mac = desired.granted, desired.retired, desired.mac
	return s
}

// RouteType is rtm_type of rtnetlink(7), in the words of ip-route(8).
type RouteType string

// The types of our own routes. Foreign ones keep whatever type they have.
const (
	Unicast     RouteType = ""
	Unreachable RouteType = "unreachable"
)

// Route is a route of the main table. It is comparable with ==.
type Route struct {
	Type RouteType    `json:"type,omitempty"`
	Dst  netip.Prefix `json:"dst"`
	// Via is the gateway; the zero Addr: on link.
	Via netip.Addr `json:"via"`
	// Dev is the device's name; empty for routes without one.
	Dev string `json:"dev,omitempty"`
	// Src is the preferred source; the zero Addr: the kernel's choice.
	Src      netip.Addr `json:"src"`
	Protocol int        `json:"protocol,omitempty"`
	Metric   int        `json:"metric,omitempty"`
	// TOS is the type of service that a packet must have to take this IPv4 route,
	// which then goes before those of any metric without one; ours have none.
	TOS int `json:"tos,omitempty"`
	// Shared tells that somebody appended a next hop of theirs to this IPv6 route,
	// which the kernel keeps as one with ours (fib6_add_rt2node of
	// net/ipv6/ip6_fib.c). It can be deleted, hop by hop, but not replaced.
	Shared bool `json:"shared,omitempty"`
	// Dead is set on a foreign route that the kernel does not use for now
	// (RTNH_F_DEAD of linux/rtnetlink.h): its device has no carrier, and
	// ignore_routes_with_linkdown is set on it.
	Dead bool `json:"dead,omitempty"`
	// Encap is set on a route whose packets get an outer header (RTA_ENCAP,
	// lwtunnel), so it does not prove that its destination is on link.
	Encap bool `json:"encap,omitempty"`
	// From is the source that a packet must have to take this IPv6 route
	// (rtm_src_len and RTA_SRC); the zero Prefix: any. Ours have none.
	From netip.Prefix `json:"from,omitzero"`
}

// LeadsNowhere reports whether packets that take the route are dropped or refused: its type is
// blackhole, unreachable, prohibit, or throw, which ends the search in the last table.
func (r Route) LeadsNowhere() bool {
	return slices.Contains([]RouteType{"blackhole", Unreachable, "prohibit", "throw"}, r.Type)
}

// LeavesOwnSubnet reports whether a foreign route to a part of this node's own pod subnet takes
// packets away from the pods there: it leads nowhere, out of one of the uplinks, or to a gateway
// that is not behind the bridge, as those to the blocks of Calico's other nodes do. One to another
// device is left out, because other networks lead to a pod of theirs by it, and so is one that the
// kernel makes for an address: see who may hold one in docs/design.md.
func (r Route) LeavesOwnSubnet(bridge string, uplinks map[string]bool) bool {
	if r.LeadsNowhere() {
		return true
	}
	if r.Dead || r.Dev == bridge || r.Protocol == protocolKernel {
		return false
	}
	return r.Via.IsValid() || uplinks[r.Dev]
}

// Compare orders routes by destination, then metric: by their key in the kernel.
func (r Route) Compare(s Route) int {
	if c := ComparePrefix(r.Dst, s.Dst); c != 0 {
		return c
	}
	return cmp.Compare(r.Metric, s.Metric)
}

// String gives the route as ip-route(8) takes it.
func (r Route) String() string {
	var b strings.Builder
	if r.Type != Unicast {
		b.WriteString(string(r.Type) + " ")
	}
	if r.Dst.Bits() == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(r.Dst.String())
	}
	if r.From.IsValid() {
		b.WriteString(" from " + r.From.String())
	}
	if r.TOS != 0 {
		fmt.Fprintf(&b, " tos %#x", r.TOS)
	}
	if r.Via.IsValid() {
		b.WriteString(" via ")
		b.WriteString(r.Via.String())
	}
	if r.Dev != "" {
		b.WriteString(" dev ")
		b.WriteString(r.Dev)
	}
	if r.Protocol != 0 {
		fmt.Fprintf(&b, " proto %d", r.Protocol)
	}
	if r.Src.IsValid() {
		b.WriteString(" src ")
		b.WriteString(r.Src.String())
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	return b.String()
}

// Address is an address of a device, with the length of its prefix.
type Address struct {
	Dev    string       `json:"dev"`
	Prefix netip.Prefix `json:"prefix"`
}

// Compare orders addresses.
func (a Address) Compare(b Address) int {
	return cmp.Or(ComparePrefix(a.Prefix, b.Prefix), cmp.Compare(a.Dev, b.Dev))
}

// String gives the address as ip-address(8) takes it.
func (a Address) String() string { return a.Prefix.String() + " dev " + a.Dev }

// Masquerade is our nftables table: what leaves the cluster from a pod of ours
// gets the node's address, and nothing else does.
type Masquerade struct {
	// Bridge is the pods' device.
	Bridge string `json:"bridge"`
	// Sources are our own pod subnets. Without masquerading there are none.
	Sources []netip.Prefix `json:"sources,omitempty"`
	// Egress are the links where the kernel would have a choice of the address that
	// pods get towards the world, and the InternalIP of this node that they get there, sorted.
	Egress []Egress `json:"egress,omitempty"`
	// Cluster holds disjoint ranges that see a pod's own address, sorted.
	Cluster []netip.Prefix `json:"cluster,omitempty"`
	// Nodes are the next hops of peers, whose host-network pods are pods too,
	// sorted.
	Nodes []netip.Addr `json:"nodes,omitempty"`
}

// SameRules reports whether two tables differ in their sets at most.
func (m *Masquerade) SameRules(o *Masquerade) bool {
	return m.Bridge == o.Bridge && slices.Equal(m.Sources, o.Sources) && slices.Equal(m.Egress, o.Egress)
}

// Serves reports whether the table masquerades pods of a family; it has sets of that family
// only then.
func (m *Masquerade) Serves(is4 bool) bool {
	return slices.ContainsFunc(m.Sources, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 })
}

// Egress is a link with the source address that pods' packets to the world get on it.
type Egress struct {
	Dev  string     `json:"dev"`
	Addr netip.Addr `json:"addr"`
}

// Compare orders by address, then link.
func (e Egress) Compare(o Egress) int {
	return cmp.Or(e.Addr.Compare(o.Addr), cmp.Compare(e.Dev, o.Dev))
}

// CNI is what varies in our CNI config.
type CNI struct {
	Bridge string `json:"bridge"`
	// MTU of the pods' devices in bytes.
	MTU int `json:"mtu"`
	// Subnets are our own pod subnets, at most one a family.
	Subnets []netip.Prefix `json:"subnets"`
	// IPAMDir is the folder of host-local's leases.
	IPAMDir string `json:"ipamDir"`
	// Firewall has the stock firewall plugin accept each pod's packets.
	Firewall bool `json:"firewall,omitempty"`
	// Spec11 offers the runtime version 1.1.0 of the CNI spec, beside 1.0.0.
	Spec11 bool `json:"spec11,omitempty"`
	// Plugins are called after our own plugins, in this order.
	Plugins []Plugin `json:"plugins,omitempty"`
	// Layout says which files hold the config.
	Layout Layout `json:"layout,omitempty"`
}

// Plugin is a CNI plugin that is chained after our own. It is comparable with ==.
type Plugin struct {
	Type string `json:"type"`
	// File is the name of the drop-in file; empty: another program, such as a service mesh,
	// appended the plugin to our config.
	File string `json:"file,omitempty"`
	// Config is the plugin's configuration: a JSON object with sorted keys. Reports leave it out.
	Config string `json:"-"`
}

// Layout says which files hold our CNI config. A file in the run folder holds it in each.
type Layout string

const (
	// LayoutLink has a symlink to the run folder in the CNI folder. After a reboot it leads
	// nowhere, so no runtime loads the config before the agent has run.
	LayoutLink Layout = ""
	// LayoutGate has a regular file in the CNI folder, which other programs can read and add to,
	// and before it by name a symlink to the run folder: the gate, which the runtime loads.
	LayoutGate Layout = "gate"
	// LayoutFile has the regular file alone, after another config that is wanted before it.
	LayoutFile Layout = "file"
	// LayoutMixed is none of these: a file is missing, or is not as the agent wrote it.
	LayoutMixed Layout = "mixed"
)

// Equal tells whether two configs are the same; two nils are.
func (c *CNI) Equal(o *CNI) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.Bridge == o.Bridge && c.MTU == o.MTU && c.IPAMDir == o.IPAMDir && c.Firewall == o.Firewall &&
		c.Spec11 == o.Spec11 && c.Layout == o.Layout && slices.Equal(c.Subnets, o.Subnets) && slices.Equal(c.Plugins, o.Plugins)
}
