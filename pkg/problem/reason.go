package problem

// Reason names a kind of Problem. There are few of them, so that a metric can have them as a label.
type Reason string

// The Reasons of agents: a Node, a claim of a Node, or a part of this host is left out.
const (
	NodeMissing      Reason = "NodeMissing"      // our own Node is not in the list
	PodCIDRMissing   Reason = "PodCIDRMissing"   // no pod subnet yet
	PodCIDRMalformed Reason = "PodCIDRMalformed" // not a prefix, host bits set, one family twice
	PodCIDRRefused   Reason = "PodCIDRRefused"   // outside what a pod subnet may be
	PodCIDRDisputed  Reason = "PodCIDRDisputed"  // another Node holds it
	AddressMissing   Reason = "AddressMissing"   // no InternalIP of a family that is needed
	AddressMalformed Reason = "AddressMalformed" // an InternalIP that is not a plain unicast address
	AddressRefused   Reason = "AddressRefused"   // an InternalIP that can't be a next hop here
	AddressShared    Reason = "AddressShared"    // two Nodes with one InternalIP; neither is refused
	TunnelFailed     Reason = "TunnelFailed"     // this host can't have its tunnel
	TunnelConflict   Reason = "TunnelConflict"   // another device receives on the UDP port of our tunnels
	RouteTableUnused Reason = "RouteTableUnused" // nothing leads to the table with our routes, or to the VRF of the uplink
	MACShared        Reason = "MACShared"        // two Nodes' tunnels have one MAC address
	OffLink          Reason = "OffLink"          // the next hop is not on link but behind a gateway
	RouteConflict    Reason = "RouteConflict"    // a foreign route takes precedence over ours
	RouteKept        Reason = "RouteKept"        // a next hop has stopped being on link; its route stays
	RangeOverlap     Reason = "RangeOverlap"     // an address or route of this host is inside the pods' ranges; pods are served
	RouteFailed      Reason = "RouteFailed"      // the kernel refused a route
	SettingMissing   Reason = "SettingMissing"   // the kernel lacks a setting that we need
	SettingFailed    Reason = "SettingFailed"    // a setting can't be changed, or does not stay changed
	HostUnseen       Reason = "HostUnseen"       // a part of this host can't be read or watched
	KernelFailed     Reason = "KernelFailed"     // reading or changing the kernel failed
	TableFailed      Reason = "TableFailed"      // the nftables table can't be read or written
	BridgeFailed     Reason = "BridgeFailed"     // the bridge, a port or an address of it can't be made or set
	CNIFailed        Reason = "CNIFailed"        // the CNI config can't be read or written
	CNIConflict      Reason = "CNIConflict"      // another CNI config takes precedence over ours
	CNIPluginRefused Reason = "CNIPluginRefused" // a drop-in CNI plugin is left out of the chain
	CNIUnread        Reason = "CNIUnread"        // our CNI config is in place, and the runtime has not loaded it
	PluginMissing    Reason = "PluginMissing"    // a CNI plugin that our config calls is missing or can't run
	SubnetFull       Reason = "SubnetFull"       // all addresses of a pod subnet are leased
	APIUnavailable   Reason = "APIUnavailable"   // no list of Nodes yet
	PruneHeld        Reason = "PruneHeld"        // removals wait until the list of Nodes is confirmed
	SubnetChanged    Reason = "SubnetChanged"    // pods still have addresses of a former pod subnet
	NodeUpdateFailed Reason = "NodeUpdateFailed" // our own Node's condition or taint can't be set, or does not stay set
	ServicesUnread   Reason = "ServicesUnread"   // the cluster's ServiceCIDRs can't be read, or one is left out
	PodNetworkReady  Reason = "PodNetworkReady"  // an Event only: all problems that Events reported are solved
	Contested        Reason = "Contested"        // another program keeps reverting our changes
)

// The Reasons of differences between what is desired and the kernel or the CNI folder.
const (
	Missing  Reason = "Missing"  // it is not there
	Altered  Reason = "Altered"  // it has other values
	Unwanted Reason = "Unwanted" // it is there and not desired
)

// The Reasons of the fleet status: why a Node has no report, and what only all reports together
// show.
const (
	NotManaged   Reason = "NotManaged"   // no agent is supposed to run there
	NoAgent      Reason = "NoAgent"      // there is no pod of an agent
	NotRunning   Reason = "NotRunning"   // the pod does not run
	Forbidden    Reason = "Forbidden"    // the user lacks a right
	NoAnswer     Reason = "NoAnswer"     // the agent runs, but does not answer
	Unreadable   Reason = "Unreadable"   // this version can't read the answer
	NodeNotReady Reason = "NodeNotReady" // the agent is ready, but the Node's condition Ready is not True
	NoRoute      Reason = "NoRoute"      // a peer without a route, for which the agent has no other Reason
	NotReady     Reason = "NotReady"     // the agent is not ready and reports no Reason
	MoreProblems Reason = "MoreProblems" // a report had more entries than are kept
	Asymmetry    Reason = "Asymmetry"    // a Node lacks the route to others that have one to it
	Disagreement Reason = "Disagreement" // agents attribute a subnet to different Nodes
	Oversize     Reason = "Oversize"     // pods send larger packets than other Nodes' links take
	Versions     Reason = "Versions"     // agents are of more than one version

	TunnelMismatch     Reason = "TunnelMismatch"     // Nodes have tunnels of different ports or VNIs
	MixedEncapsulation Reason = "MixedEncapsulation" // Nodes have different settings of --encapsulation
)

// The Reasons of the connectivity test.
const (
	ProbeFailed      Reason = "ProbeFailed"      // a packet did not arrive
	SourceTranslated Reason = "SourceTranslated" // it arrived with another source address
	NodeAbsent       Reason = "NodeAbsent"       // a node could not take part
)

// The Reasons of what all failures of the connectivity test have in common.
const (
	CommonNode       Reason = "CommonNode"       // one node is the source or the target of all of them
	TCPDropped       Reason = "TCPDropped"       // between pods datagrams arrive, and TCP does not
	DatagramsDropped Reason = "DatagramsDropped" // TCP arrives, and datagrams do not
	LargeDropped     Reason = "LargeDropped"     // small packets arrive, and large ones do not
	ServiceUnreached Reason = "ServiceUnreached" // pods reach each other, and not a Service
	NamesUnresolved  Reason = "NamesUnresolved"  // pods reach Services, and names are not resolved
	NodeUnreached    Reason = "NodeUnreached"    // pods reach each other, and not a node's own address
	OutsideUnreached Reason = "OutsideUnreached" // pods reach each other, and not hosts outside
)
