package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// State is everything that plainroute makes on a host, desired or actual. The zero State is
// nothing.
type State struct {
	// Sysctls are values by their path below /proc/sys. The actual State has all that may matter,
	// the desired one those that must have a certain value.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Bridge is the name of the pods' bridge; empty: none. The agent makes it and never removes it.
	Bridge string `json:"bridge,omitempty"`
	// Devices are the bridge and the ports of pods, sorted by name. The actual State includes ports
	// of pods outside of the bridge.
	Devices []Device `json:"devices,omitempty"`
	// Addresses are those of the bridge and of tunnels, sorted. Only the agent restores them: CNI's CHECK does not
	// fail after `ip addr del`.
	Addresses []Address  `json:"addresses,omitempty"`
	Tunnels   []Tunnel   `json:"tunnels,omitempty"`   // sorted, at most one a family
	Neighbors []Neighbor `json:"neighbors,omitempty"` // permanent ones on tunnels, sorted
	FDB       []FDBEntry `json:"fdb,omitempty"`       // of tunnels, sorted
	// Routes are sorted by CompareRoutes and unique by their key. States share them by their pointers, so
	// that thousands of equal ones cost little: nobody may change one.
	Routes     []*Route `json:"routes,omitempty"`
	RouteTable int      `json:"routeTable,omitempty"` // the number of the table with these; 0: main
	// Elsewhere are routes of ours in other tables, sorted: --table was changed.
	Elsewhere  []TableRoute `json:"elsewhere,omitempty"`
	Masquerade *Masquerade  `json:"masquerade,omitempty"` // nil: none
	CNI        *CNI         `json:"cni,omitempty"`        // nil: none

	granted []*claim  // the accepted claims, sorted by subnet
	retired []Address // gateways of former subnets, to be removed
	mac     string    // the bridge's; running pods have it in their neighbor tables
}

// After returns the actual State with what the kernel can't store and the State desired before has:
// the Node that each pod subnet was granted to, because the kernel has its address alone, which may
// change; the bridge's gateways of former subnets, once the config has followed; the MAC address of
// a bridge that was deleted.
func (s State) After(desired State) State {
	s.granted, s.retired, s.mac = desired.granted, desired.retired, desired.mac
	return s
}

// RouteType is rtm_type of rtnetlink(7), as ip-route(8) spells it.
type RouteType string

// The types of our own routes. Foreign ones may have any type.
const (
	Unicast     RouteType = ""
	Unreachable RouteType = "unreachable"
)

// Route is a route of one table. It is comparable with ==.
type Route struct {
	Type RouteType    `json:"type,omitempty"`
	Dst  netip.Prefix `json:"dst"`
	Via  netip.Addr   `json:"via"`           // the gateway; the zero Addr: on link
	Dev  string       `json:"dev,omitempty"` // empty for routes without a device
	Src  netip.Addr   `json:"src"`           // preferred; the zero Addr: the kernel's choice
	// OnLink has the kernel accept a gateway that no route of its own leads to (RTNH_F_ONLINK of
	// linux/rtnetlink.h).
	OnLink bool `json:"onLink,omitempty"`

	Protocol uint8  `json:"protocol,omitempty"`
	Metric   uint32 `json:"metric,omitempty"`
	// TOS is the type of service that a packet must have for this IPv4 route, which then precedes
	// those of any metric without one; ours have none.
	TOS uint8 `json:"tos,omitempty"`
	// Shared reports that another program has appended a next hop to this IPv6 route, which the
	// kernel merges with ours (fib6_add_rt2node of net/ipv6/ip6_fib.c). It can be deleted hop by
	// hop, but not replaced.
	Shared bool `json:"shared,omitempty"`
	// Dead is set on a foreign route that the kernel does not use at the moment (RTNH_F_DEAD of
	// linux/rtnetlink.h): its device has no carrier, and ignore_routes_with_linkdown is set.
	Dead bool `json:"dead,omitempty"`
	// Encap is set on a route that adds an outer header (RTA_ENCAP, lwtunnel), so it does not prove
	// that its destination is on link.
	Encap bool `json:"encap,omitempty"`
	// From is the source that a packet must have for this IPv6 route (rtm_src_len and RTA_SRC); the
	// zero Prefix: any. Ours have none.
	From netip.Prefix `json:"from,omitzero"`
}

// LeadsNowhere reports whether packets on this route are dropped or refused: its type is blackhole,
// unreachable, prohibit, or throw, which ends the lookup in the last table.
func (r Route) LeadsNowhere() bool {
	return slices.Contains([]RouteType{"blackhole", Unreachable, "prohibit", "throw"}, r.Type)
}

// LeavesOwnSubnet reports whether a foreign route to a part of this node's own pod subnet diverts
// packets from the pods there: it leads nowhere, out of an uplink, or to a gateway that is not
// behind the bridge, such as those to Calico's blocks on other nodes. One to another device is left
// out, because other networks have one to each of their pods, and so is one that the kernel makes
// for an address: see docs/design.md, who may hold one.
func (r Route) LeavesOwnSubnet(bridge string, uplinks map[string]bool) bool {
	if r.LeadsNowhere() {
		return true
	}
	if r.Dead || r.Dev == bridge || r.Protocol == protocolKernel {
		return false
	}
	return r.Via.IsValid() || uplinks[r.Dev]
}

// CompareRoutes orders routes by their key in the kernel: destination, then metric.
func CompareRoutes(r, s *Route) int { return r.compareKey(routeKey{s.Dst, s.Metric}) }

// A routeKey is the key of a route in its table.
type routeKey struct {
	dst    netip.Prefix
	metric uint32
}

func (r *Route) compareKey(k routeKey) int {
	if c := ComparePrefix(r.Dst, k.dst); c != 0 {
		return c
	}
	return cmp.Compare(r.Metric, k.metric)
}

// SameRoute reports whether two routes are equal.
func SameRoute(r, s *Route) bool { return r == s || *r == *s }

// PeerMetric returns the metric of the route to a peer's subnet: 2048, and in IPv4 the exclusive or of
// the subnet's bytes. For each new route the kernel looks for an equal next hop among those of the
// same metric, device and source, one by one (fib_find_info of net/ipv4/fib_semantics.c), so with one
// metric for all the cost of routes by many gateways is quadratic.
func PeerMetric(subnet netip.Prefix) uint32 {
	metric := uint32(MetricPeer)
	if subnet.Addr().Is4() {
		for _, b := range subnet.Addr().As4() {
			metric ^= uint32(b)
		}
	}
	return metric
}

// ToPeer reports whether a route of ours leads to a peer's subnet. Those of earlier versions all have
// MetricPeer.
func (r *Route) ToPeer() bool { return r.Metric == MetricPeer || r.Metric == PeerMetric(r.Dst) }

// InPlaceOf returns the one of sorted, desired routes that replaces another one of ours, or nil.
func InPlaceOf(sorted []*Route, r *Route) *Route {
	if r.ToPeer() {
		return RouteTo(sorted, r.Dst, PeerMetric(r.Dst))
	}
	return RouteTo(sorted, r.Dst, r.Metric)
}

// ShareRoutes replaces those of sorted routes that are equal to one of others by that.
func ShareRoutes(routes, others []*Route) {
	for i, r := range routes {
		for len(others) > 0 && CompareRoutes(others[0], r) < 0 {
			others = others[1:]
		}
		if len(others) > 0 && *others[0] == *r {
			routes[i] = others[0]
		}
	}
}

// RouteTo returns the one of sorted routes to a prefix with a metric, or nil.
func RouteTo(sorted []*Route, dst netip.Prefix, metric uint32) *Route {
	i, ok := slices.BinarySearchFunc(sorted, routeKey{dst, metric}, (*Route).compareKey)
	if !ok {
		return nil
	}
	return sorted[i]
}

// String returns the route in the syntax of ip-route(8).
func (r Route) String() string {
	var b strings.Builder
	word := func(given bool, format string, value any) {
		if given {
			fmt.Fprintf(&b, format, value)
		}
	}
	word(r.Type != Unicast, "%s ", r.Type)
	word(r.Dst.Bits() == 0, "%s", "default")
	word(r.Dst.Bits() != 0, "%s", r.Dst)
	word(r.From.IsValid(), " from %s", r.From)
	word(r.TOS != 0, " tos %#x", r.TOS)
	word(r.Via.IsValid(), "%s", " via ")
	word(r.Via.Is6() && r.Dst.Addr().Is4(), "%s", "inet6 ")
	word(r.Via.IsValid(), "%s", r.Via)
	word(r.Dev != "", " dev %s", r.Dev)
	word(r.Protocol != 0, " proto %d", r.Protocol)
	word(r.Src.IsValid(), " src %s", r.Src)
	word(r.Metric != 0, " metric %d", r.Metric)
	word(r.OnLink, "%s", " onlink")
	return b.String()
}

// Address is an address of a device, with its prefix length.
type Address struct {
	Dev    string       `json:"dev"`
	Prefix netip.Prefix `json:"prefix"`
}

// Compare orders addresses.
func (a Address) Compare(b Address) int {
	return cmp.Or(ComparePrefix(a.Prefix, b.Prefix), cmp.Compare(a.Dev, b.Dev))
}

// String returns the address in the syntax of ip-address(8).
func (a Address) String() string { return a.Prefix.String() + " dev " + a.Dev }

// Masquerade is our nftables table: packets that leave the cluster from our pods get the node's
// address, no others do. It also filters what comes by tunnels.
type Masquerade struct {
	Bridge  string         `json:"bridge"`
	Sources []netip.Prefix `json:"sources,omitempty"` // our own pod subnets; none without masquerading
	// Egress are the links on which the kernel could choose among several addresses, with this
	// node's InternalIP as the one that pods get, sorted.
	Egress  []Egress       `json:"egress,omitempty"`
	Cluster []netip.Prefix `json:"cluster,omitempty"` // to which pods' packets are not masqueraded; disjoint, sorted
	Nodes   []netip.Addr   `json:"nodes,omitempty"`   // the next hops of peers, whose host-network pods are pods too, sorted
	// Tunnels are those whose packets are filtered, sorted by family.
	Tunnels   []TunnelFilter `json:"tunnels,omitempty"`
	Endpoints []netip.Addr   `json:"endpoints,omitempty"` // from which tunnels accept packets, sorted
}

// A TunnelFilter drops what comes by a tunnel and can't be a peer's: packets from unknown senders
// to the port and VNI, and in the device those from outside the cluster's ranges, from our own pod
// subnet, or of the other family. VXLAN itself has no authentication (RFC 7348, section 7).
type TunnelFilter struct {
	Dev  string       `json:"dev"`
	VNI  int          `json:"vni"`
	Port int          `json:"port"`
	Own  netip.Prefix `json:"own"`
}

// Filters reports whether the table filters a tunnel of a family.
func (m *Masquerade) Filters(is4 bool) bool {
	return slices.ContainsFunc(m.Tunnels, func(t TunnelFilter) bool { return t.Own.Addr().Is4() == is4 })
}

// KnowsCluster reports whether the table has the set of the cluster's ranges of a family.
func (m *Masquerade) KnowsCluster(is4 bool) bool { return m.Serves(is4) || m.Filters(is4) }

// SameRules reports whether two tables are equal except for the elements of their sets.
func (m *Masquerade) SameRules(o *Masquerade) bool {
	return m.Bridge == o.Bridge && slices.Equal(m.Sources, o.Sources) && slices.Equal(m.Egress, o.Egress) && slices.Equal(m.Tunnels, o.Tunnels)
}

// Serves reports whether the table masquerades pods of a family; only then it has sets of that
// family.
func (m *Masquerade) Serves(is4 bool) bool {
	return hasFamily(m.Sources, is4)
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

// CNI is the variable part of our CNI config.
type CNI struct {
	Bridge   string         `json:"bridge"`
	MTU      int            `json:"mtu"`                // of the pods' devices in bytes
	Subnets  []netip.Prefix `json:"subnets"`            // our own pod subnets, at most one a family
	IPAMDir  string         `json:"ipamDir"`            // the folder of host-local's leases
	Firewall bool           `json:"firewall,omitempty"` // calls the stock firewall plugin
	Spec11   bool           `json:"spec11,omitempty"`   // offers version 1.1.0 of the CNI spec beside 1.0.0
	Plugins  []Plugin       `json:"plugins,omitempty"`  // called after our own plugins, in this order
	Layout   Layout         `json:"layout,omitempty"`
}

// Plugin is a CNI plugin that is chained after our own. It is comparable.
type Plugin struct {
	Type string `json:"type"`
	// File is the name of the drop-in file; empty: another program, such as a service mesh,
	// appended the plugin to our config.
	File   string `json:"file,omitempty"`
	Config string `json:"-"` // the configuration: a JSON object with sorted keys; reports leave it out
}

// Layout is the set of files with our CNI config. Each includes a file in the run folder.
type Layout string

const (
	// LayoutLink has a symlink to the run folder in the CNI folder. After a reboot it is dangling,
	// so no runtime loads the config before the agent has run.
	LayoutLink Layout = ""
	// LayoutGate has a regular file in the CNI folder, which other programs can read and append to,
	// and the gate before it by name: a symlink to the run folder, which the runtime loads.
	LayoutGate Layout = "gate"
	// LayoutFile has the regular file alone, after another config that may go before it.
	LayoutFile Layout = "file"
	// LayoutMixed is none of these: a file is missing, or differs from what the agent wrote.
	LayoutMixed Layout = "mixed"
)

// Equal reports whether two configs are the same; two nils are.
func (c *CNI) Equal(o *CNI) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.Bridge == o.Bridge && c.MTU == o.MTU && c.IPAMDir == o.IPAMDir && c.Firewall == o.Firewall &&
		c.Spec11 == o.Spec11 && c.Layout == o.Layout && slices.Equal(c.Subnets, o.Subnets) && slices.Equal(c.Plugins, o.Plugins)
}
