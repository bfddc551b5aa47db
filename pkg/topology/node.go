package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/problem"
)

// maxAddrs is how many InternalIPs of a Node are looked at. A kubelet may write
// thousands; no machine has more than a few that peers could route to.
const maxAddrs = 16

// maxPodCIDRs is as many as an API server takes, one a family, and one more to
// say that there are more.
const maxPodCIDRs = 3

// Node is what we keep of a Kubernetes Node.
type Node struct {
	Name     string
	UID      string
	Created  time.Time
	PodCIDRs []netip.Prefix    // at most one a family
	Addrs    []netip.Addr      // InternalIPs, unicast, without zones, 4-in-6 unmapped
	Problems []problem.Problem // what was left out of the two above
}

func (n *Node) leaveOut(reason problem.Reason, format string, args ...any) {
	n.Problems = append(n.Problems, problem.Problem{Subject: problem.Node(n.Name), Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// NodeFrom converts a Kubernetes Node. It never fails, because a kubelet may write anything: what is invalid is left out
// and becomes a Problem.
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

func (n *Node) addPodCIDR(s string) (fault string) {
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

func (n *Node) addAddr(s string) (fault string) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return "is not an IP address"
	}
	if addr.Zone() != "" {
		return "has a zone"
	}
	if addr = addr.Unmap(); !unicast(addr) {
		return "is not a unicast address that can be routed to"
	}
	n.Addrs = append(n.Addrs, addr)
	return ""
}

// Equal tells whether two Nodes give rise to the same State.
func (n *Node) Equal(o *Node) bool {
	return n.Name == o.Name && n.UID == o.UID && n.Created.Equal(o.Created) &&
		slices.Equal(n.PodCIDRs, o.PodCIDRs) && slices.Equal(n.Addrs, o.Addrs) && slices.Equal(n.Problems, o.Problems)
}

// podCIDR returns the Node's pod subnet of a family, or the zero Prefix.
func (n *Node) podCIDR(is4 bool) netip.Prefix {
	for _, p := range n.PodCIDRs {
		if p.Addr().Is4() == is4 {
			return p
		}
	}
	return netip.Prefix{}
}

// lacksPodCIDR tells whether the Node was given no pod subnet yet, not even one
// that can't be read.
func (n *Node) lacksPodCIDR() bool {
	return len(n.PodCIDRs) == 0 && !slices.ContainsFunc(n.Problems, func(p problem.Problem) bool { return p.Reason == problem.PodCIDRMalformed })
}

// firstAddr returns the Node's first InternalIP of a family, or the zero Addr.
func (n *Node) firstAddr(is4 bool) netip.Addr {
	for _, addr := range n.Addrs {
		if addr.Is4() == is4 {
			return addr
		}
	}
	return netip.Addr{}
}

// older reports whether n has the better right than m when neither is incumbent.
func (n *Node) older(m *Node) bool { return n.compareAge(m) < 0 }

// compareAge orders by age, the oldest first, then by name.
func (n *Node) compareAge(m *Node) int {
	return cmp.Or(n.Created.Compare(m.Created), cmp.Compare(n.Name, m.Name))
}

// quote shortens what a kubelet wrote to what a log line can bear.
func quote(s string) string {
	const limit = 64
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// CompareSubnets orders Nodes by their first pod subnet, then by name.
func CompareSubnets(a, b *Node) int {
	var p, q netip.Prefix
	if len(a.PodCIDRs) > 0 {
		p = a.PodCIDRs[0]
	}
	if len(b.PodCIDRs) > 0 {
		q = b.PodCIDRs[0]
	}
	return cmp.Or(ComparePrefix(p, q), cmp.Compare(a.Name, b.Name))
}
