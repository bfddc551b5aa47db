package topology

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/problem"
)

const (
	maxAddrs    = 16 // InternalIPs of a Node that are read; a kubelet may write thousands, a machine has a few
	maxPodCIDRs = 3  // podCIDRs that are read; an API server accepts one a family, one more leads to a Problem
)

// Node is what the agent keeps of a Kubernetes Node.
type Node struct {
	Name     string
	UID      string
	Created  time.Time
	PodCIDRs []netip.Prefix    // at most one a family
	Addrs    []netip.Addr      // InternalIPs, unicast, without zones, 4-in-6 unmapped
	Problems []problem.Problem // about invalid podCIDRs and addresses, which are left out
}

func (n *Node) leaveOut(reason problem.Reason, format string, args ...any) {
	n.Problems = append(n.Problems, problem.Problem{Subject: problem.Node(n.Name), Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// NodeFrom converts a Kubernetes Node. It never fails, because a kubelet may write anything: an
// invalid value is left out and becomes a Problem.
func NodeFrom(n *corev1.Node) *Node {
	node := &Node{Name: n.Name, UID: string(n.UID), Created: n.CreationTimestamp.Time}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, s := range cidrs[:min(len(cidrs), maxPodCIDRs)] {
		if reason := node.addPodCIDR(s); reason != "" {
			node.leaveOut(problem.PodCIDRMalformed, "podCIDR %s %s", quote(s), reason)
		}
	}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if len(node.Addrs) == maxAddrs || len(node.Problems) >= maxAddrs {
			node.leaveOut(problem.AddressRefused, "more than %d InternalIPs; the rest are ignored", maxAddrs)
			break
		}
		if reason := node.addAddr(a.Address); reason != "" {
			node.leaveOut(problem.AddressMalformed, "InternalIP %s %s", quote(a.Address), reason)
		}
	}
	return node
}

func (n *Node) addPodCIDR(s string) (why string) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return "is not a prefix such as 10.244.1.0/24"
	case p.Addr().Is4In6():
		return "is an IPv4 prefix in IPv6 form"
	case p != p.Masked():
		return "has host bits set"
	case n.podCIDR(p.Addr().Is4()).IsValid():
		return "is a second one of its family"
	}
	n.PodCIDRs = append(n.PodCIDRs, p)
	return ""
}

func (n *Node) addAddr(s string) (why string) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return "is not an IP address"
	case addr.Zone() != "":
		return "has a zone"
	case !unicast(addr.Unmap()):
		return "is not a unicast address that can be routed to"
	}
	n.Addrs = append(n.Addrs, addr.Unmap())
	return ""
}

// Equal reports whether two Nodes lead to the same State.
func (n *Node) Equal(o *Node) bool {
	return n.Name == o.Name && n.UID == o.UID && n.Created.Equal(o.Created) &&
		slices.Equal(n.PodCIDRs, o.PodCIDRs) && slices.Equal(n.Addrs, o.Addrs) && slices.Equal(n.Problems, o.Problems)
}

func (n *Node) podCIDR(is4 bool) netip.Prefix { return firstOf(n.PodCIDRs, is4) }

// lacksPodCIDR reports whether the Node has no podCIDR yet, not even an invalid one.
func (n *Node) lacksPodCIDR() bool {
	return len(n.PodCIDRs) == 0 && !slices.ContainsFunc(n.Problems, func(p problem.Problem) bool { return p.Reason == problem.PodCIDRMalformed })
}

func (n *Node) firstAddr(is4 bool) netip.Addr {
	for _, addr := range n.Addrs {
		if addr.Is4() == is4 {
			return addr
		}
	}
	return netip.Addr{}
}

// compareAge is negative if n takes precedence over m while neither is the incumbent.
func (n *Node) compareAge(m *Node) int {
	return cmp.Or(n.Created.Compare(m.Created), cmp.Compare(n.Name, m.Name))
}

func quote(s string) string {
	const limit = 64
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// CompareSubnets orders Nodes by their pod subnets, then by name.
func CompareSubnets(a, b *Node) int {
	return cmp.Or(slices.CompareFunc(a.PodCIDRs, b.PodCIDRs, ComparePrefix), cmp.Compare(a.Name, b.Name))
}

// VirtualLabels returns the labels, with their values, of Nodes without a kernel of their own,
// which the manifests' affinity excludes: virtual kubelets, kwok's, Liqo's and Fargate's.
func VirtualLabels() map[string][]string {
	return map[string][]string{
		"type": {"virtual-kubelet", "kwok"}, "liqo.io/type": {"virtual-node"}, "eks.amazonaws.com/compute-type": {"fargate"},
	}
}

// RealNodes selects the Nodes that none of the VirtualLabels marks.
func RealNodes() corev1.NodeSelectorTerm {
	var own corev1.NodeSelectorTerm
	all := VirtualLabels()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		requirement := corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpNotIn, Values: all[key]}
		own.MatchExpressions = append(own.MatchExpressions, requirement)
	}
	return own
}

// VirtualLabel returns the one of a Node's labels, KEY=VALUE, that marks it as virtual, or "".
func VirtualLabel(labels map[string]string) string {
	all := VirtualLabels()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if value := labels[key]; slices.Contains(all[key], value) {
			return key + "=" + value
		}
	}
	return ""
}

// Virtual reports whether a Node's labels mark it as virtual.
func Virtual(labels map[string]string) bool { return VirtualLabel(labels) != "" }
