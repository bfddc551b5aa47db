package topology

import (
	"cmp"
	"fmt"
	"net/netip"
)

// Reason names a kind of Problem. There are few of them, so that a metric can
// have them as a label.
type Reason string

// The reasons for which a Node, a claim of it, or a part of this host is left out.
const (
	NodeMissing      Reason = "NodeMissing"      // our own Node is not in the list
	PodCIDRMissing   Reason = "PodCIDRMissing"   // no pod subnet yet
	PodCIDRMalformed Reason = "PodCIDRMalformed" // not a prefix, host bits set, one family twice
	PodCIDRRefused   Reason = "PodCIDRRefused"   // outside what a pod subnet may be
	PodCIDRDisputed  Reason = "PodCIDRDisputed"  // another Node holds it
	AddressMissing   Reason = "AddressMissing"   // no InternalIP of a family that is needed
	AddressMalformed Reason = "AddressMalformed" // an InternalIP that is no plain unicast address
	AddressRefused   Reason = "AddressRefused"   // an InternalIP that can be nobody's next hop here
	AddressShared    Reason = "AddressShared"    // two Nodes with one InternalIP; neither is refused
	OffLink          Reason = "OffLink"          // the next hop is behind a gateway
	RouteConflict    Reason = "RouteConflict"    // a foreign route goes before ours
	RouteKept        Reason = "RouteKept"        // this host sees no neighbor at a next hop any more; the route stays
	RangeOverlap     Reason = "RangeOverlap"     // something of this host is inside pods' ranges; pods are served all the same
	RouteFailed      Reason = "RouteFailed"      // the kernel refused a route
	SettingMissing   Reason = "SettingMissing"   // the kernel lacks a setting that we need
	SettingFailed    Reason = "SettingFailed"    // a setting can't be made, or does not stay
	HostUnseen       Reason = "HostUnseen"       // a part of this host can't be read or watched
	KernelFailed     Reason = "KernelFailed"     // reading or changing the kernel failed
	TableFailed      Reason = "TableFailed"      // the nftables table can't be read or written
	BridgeFailed     Reason = "BridgeFailed"     // the bridge, a port or an address of it can't be made or set
	CNIFailed        Reason = "CNIFailed"        // the CNI config can't be read or written
	CNIConflict      Reason = "CNIConflict"      // the runtime takes another CNI config before ours
	CNIPluginRefused Reason = "CNIPluginRefused" // a drop-in CNI plugin is left out of the chain
	CNIUnread        Reason = "CNIUnread"        // our CNI config is in place, and the runtime has no pod network
	PluginMissing    Reason = "PluginMissing"    // a CNI plugin that our config calls is missing or can't run
	SubnetFull       Reason = "SubnetFull"       // all addresses of a pod subnet are leased
	APIUnavailable   Reason = "APIUnavailable"   // no list of Nodes yet
	PruneHeld        Reason = "PruneHeld"        // removals wait for a view that can be trusted
	SubnetChanged    Reason = "SubnetChanged"    // pods still live on a subnet that is not ours any more
	NodeUpdateFailed Reason = "NodeUpdateFailed" // our own Node's condition or taint can't be set, or does not stay so
	Contested        Reason = "Contested"        // somebody on this host keeps undoing what we make
)

// Problem is something that keeps a part of the network from being as it
// should, in words for the operator.
type Problem struct {
	// Node is the Node that it is about, our own too; empty: this host.
	Node string `json:"node,omitempty"`
	// Subnet is the pod subnet that it is about; the zero Prefix: all of the Node's.
	Subnet netip.Prefix `json:"subnet,omitzero"`
	Reason Reason       `json:"reason"`
	Detail string       `json:"detail"`
	// Own tells that pods of this node suffer from it, so the node is not ready.
	Own bool `json:"own,omitempty"`
}

func (p Problem) String() string {
	if p.Node == "" {
		return fmt.Sprintf("%s: %s", p.Reason, p.Detail)
	}
	return fmt.Sprintf("node %s: %s: %s", p.Node, p.Reason, p.Detail)
}

// Compare orders Problems of our own first, then by Node, reason and detail.
func (p Problem) Compare(q Problem) int {
	if p.Own != q.Own {
		if p.Own {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(p.Node, q.Node), cmp.Compare(p.Reason, q.Reason), cmp.Compare(p.Detail, q.Detail), ComparePrefix(p.Subnet, q.Subnet))
}
