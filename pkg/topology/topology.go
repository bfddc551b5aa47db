// Package topology turns Nodes, facts about this host and the operator's options into the desired
// State of the kernel and the CNI folder.
//
// It is pure: no I/O, no clock, no logging. The same input always gives the same State.
package topology

import "net/netip"

// The marks of our objects. The host has no other record of what was installed. An object without
// its mark is never changed, with one exception: a running agent restores the mark of its own tunnel.
// What else it has in memory (the owners of subnets, pending removals, former gateways) only keeps
// things as they are.
const (
	Protocol = 112 // rtm_protocol of our routes (rtnetlink(7)), a number that is free in iproute2's rt_protos
	// MetricPeer is the lowest metric of routes to peers' pod subnets, see PeerMetric. The kernel's
	// key of a route is (table, prefix, tos, metric), without the protocol, so with a metric of our
	// own we never replace a foreign route.
	MetricPeer = 2048
	// MetricOwn is the metric of the unreachable route to our own pod subnet. It is above that of
	// the bridge's connected route (0, IPv6 256), which takes precedence while it exists.
	MetricOwn = 4096
	// MetricBridge is the metric of the route by the bridge to our own pod subnet, in a table other
	// than main.
	MetricBridge = 3072
	Table        = "plainroute"  // our nftables table, of family inet
	Bridge       = "plainroute0" // the default name of the pods' bridge
	// Conflist names our CNI config in the CNI folder. Container runtimes take the first name in
	// lexical order.
	Conflist = "10-plainroute.conflist"
	// Gate names the symlink that the runtime loads if Conflist is a regular file. It sorts
	// directly before Conflist.
	Gate            = "10-plainroute-gate.conflist"
	ConditionReason = "PlainrouteReady" // of the agent's condition NetworkUnavailable on its Node
	EventSource     = "plainroute"      // the source of the agent's Events
	Network         = "plainroute"      // our CNI network, and host-local's lease folder
	FirewallPlugin  = "firewall"        // the stock plugin that accepts pods' packets in iptables' chain FORWARD
	// IPAMDir is the folder of host-local's lease folders, in the run folder. Like the pods it is
	// gone after a reboot.
	IPAMDir = "ipam"
)

// Options are the operator's validated options.
type Options struct {
	NodeName           string         // of our own Node
	Router             bool           // this host is not a Node: it has routes to all pods, and no pods of its own
	ClusterCIDRs       []netip.Prefix // bound the pod subnets; empty: no bound
	ServiceCIDRs       []netip.Prefix // must not overlap with pod subnets
	NodeCIDRs          []netip.Prefix // bound the next hops; empty: no bound
	Masquerade         bool           // gives pods' packets to the world the node's address
	NonMasqueradeCIDRs []netip.Prefix // more destinations to which pods' packets are not masqueraded
	RouteTable         int            // the table with our routes; 0: main
	MTU                int            // of pods in bytes; 0: the uplink's, less what the tunnel adds
	Encapsulation      Encapsulation  // which peers are reached by VXLAN
	OffLink            OffLink        // how peers are reached that are not on link
	VNI                int            // of the tunnels
	VXLANPort          int            // of the tunnels, UDP
	Firewall           bool           // has the stock firewall plugin accept each pod's packets
	ConfigFile         bool           // makes our CNI config a regular file, readable through the CNI folder alone
	ConfigsBefore      []string       // names of other CNI configs that may go before ours
	Bridge             string         // the name of the pods' bridge
	RunDir             string         // the folder of node-local state
	APIServers         []netip.Addr   // the API server's known addresses

	MaskSizes4, MaskSizes6         Lengths // the allowed lengths of pod subnets; the zero Lengths: see setLengths
	Unmasqueraded4, Unmasqueraded6 bool    // exclude a family from Masquerade
}

// Encapsulation is the option --encapsulation.
type Encapsulation string

// The values of --encapsulation. The empty one is EncapsulateNever.
const (
	EncapsulateNever       Encapsulation = "never"
	EncapsulateCrossSubnet Encapsulation = "cross-subnet" // to peers that are not on link
	EncapsulateAlways      Encapsulation = "always"       // to all peers
)

// OffLink is the option --off-link.
type OffLink string

// The values of --off-link. The empty one is OffLinkReport.
const (
	OffLinkReport   OffLink = "report"
	OffLinkGateway  OffLink = "gateway"  // by the gateway through which this host reaches the InternalIP
	OffLinkUnderlay OffLink = "underlay" // by this host's own routes
	OffLinkTunnel   OffLink = "tunnel"   // by VXLAN
)

// Encapsulates reports whether any peer may be reached by a tunnel.
func (o Options) Encapsulates() bool { return o.Encapsulation.encapsulates() }

func (e Encapsulation) encapsulates() bool {
	return e == EncapsulateCrossSubnet || e == EncapsulateAlways
}

// allows reports whether the operator allows a Path to a peer.
func (o Options) allows(p Path) bool {
	switch p {
	case PathTunnel:
		return o.Encapsulates()
	case PathGateway:
		return o.OffLink == OffLinkGateway
	case PathUnderlay:
		return o.OffLink == OffLinkUnderlay
	}
	return o.Encapsulation != EncapsulateAlways
}

func (o Options) maskSizes(is4 bool) Lengths { return choose(is4, o.MaskSizes4, o.MaskSizes6) }

// layout returns the files of our CNI config. Behind a config that may go before ours there is no
// gate, which a meta plugin would take for the default network's config.
func (o Options) layout() Layout {
	switch {
	case !o.ConfigFile:
		return LayoutLink
	case len(o.ConfigsBefore) > 0:
		return LayoutFile
	}
	return LayoutGate
}
