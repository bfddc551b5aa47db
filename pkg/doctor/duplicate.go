package doctor

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// duplicates looks for values that two Nodes share and that must be unique.
func duplicates(_ context.Context, t *Target) []problem.Problem {
	machines := t.machines()
	var found []problem.Problem
	for _, u := range uniqueValues {
		found = append(found, u.find(machines)...)
	}
	return append(found, overlaps(t.Nodes)...)
}

// virtual reports whether a Node has no machine of its own: it may share addresses and IDs.
func virtual(n *corev1.Node) bool {
	return topology.Virtual(n.Labels) ||
		slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "virtual-kubelet.io/provider" })
}

// A uniqueValue is a property that no two Nodes may share.
type uniqueValue struct {
	name     string
	severity problem.Severity
	remedy   string
	of       func(*corev1.Node) []string
	excused  func(a, b *corev1.Node) bool // reports whether two Nodes may share a value; nil: never
}

const (
	newIdentity = "give each machine its own: rm /etc/machine-id && systemd-machine-id-setup, then reboot; and clone from an image whose /etc/machine-id is empty"
	newHostname = "give each machine a name of its own (hostnamectl set-hostname) and let it join again, or set the kubelet's --hostname-override"
)

// uniqueValues are all except pod subnets, which can overlap without being equal.
var uniqueValues = []uniqueValue{
	{"InternalIP", problem.Error, "find the machine that really has it (arping, `ip address`), and give the other one another, or delete its Node: kubectl delete node NAME", internalIPs, nil},
	{"host name", problem.Warning, newHostname, hostnames, nil},
	{"label kubernetes.io/hostname", problem.Warning, newHostname + "; volumes and spread constraints go by that label", func(n *corev1.Node) []string { return []string{n.Labels[corev1.LabelHostname]} }, nil},
	{"machine ID", problem.Warning, newIdentity, func(n *corev1.Node) []string { return []string{n.Status.NodeInfo.MachineID} }, sameKernel},
	{"system UUID", problem.Warning, "give each machine a UUID of its own in its hypervisor", func(n *corev1.Node) []string { return []string{strings.ToLower(n.Status.NodeInfo.SystemUUID)} }, sameKernel},
	{"boot ID", problem.Warning, "machines resumed from one snapshot of memory share random numbers and identities: reboot them", func(n *corev1.Node) []string { return []string{n.Status.NodeInfo.BootID} }, sameMachine},
}

// sameKernel reports whether two Nodes are containers on one machine.
func sameKernel(a, b *corev1.Node) bool {
	return a.Status.NodeInfo.BootID != "" && a.Status.NodeInfo.BootID == b.Status.NodeInfo.BootID
}

func sameMachine(a, b *corev1.Node) bool {
	return strings.EqualFold(a.Status.NodeInfo.SystemUUID, b.Status.NodeInfo.SystemUUID)
}

func internalIPs(n *corev1.Node) []string {
	return mapped(topology.NodeFrom(n).Addrs, netip.Addr.String)
}

func hostnames(n *corev1.Node) []string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeHostName {
			return []string{a.Address}
		}
	}
	return nil
}

func (u uniqueValue) find(nodes []*corev1.Node) []problem.Problem {
	owners := map[string][]*corev1.Node{}
	for _, n := range nodes {
		for _, value := range u.of(n) {
			if value != "" && !slices.Contains(owners[value], n) {
				owners[value] = append(owners[value], n)
			}
		}
	}
	var shared group
	for _, value := range slices.Sorted(maps.Keys(owners)) {
		nodes := owners[value]
		if len(nodes) < 2 || u.excused != nil && !slices.ContainsFunc(nodes, func(n *corev1.Node) bool { return !u.excused(nodes[0], n) }) {
			continue
		}
		names := mapped(nodes, func(n *corev1.Node) string { return n.Name })
		shared.names, shared.evidence = append(shared.names, names...), append(shared.evidence, value+" of "+named(names))
	}
	return shared.problems(u.severity, "Nodes have the same "+u.name+": ", u.remedy)
}

// overlaps finds pod subnets that are equal or contain one another. Sorted by address, the wider
// first, each has to begin after the end of all before it. The subnets of two virtual nodes may
// overlap, because no pod has an address of them.
func overlaps(nodes []corev1.Node) []problem.Problem {
	type claim struct {
		subnet  netip.Prefix
		node    string
		virtual bool
	}
	var claims []claim
	for i := range nodes {
		for _, subnet := range topology.NodeFrom(&nodes[i]).PodCIDRs {
			claims = append(claims, claim{subnet, nodes[i].Name, virtual(&nodes[i])})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(a.subnet.Addr().Compare(b.subnet.Addr()), cmp.Compare(a.subnet.Bits(), b.subnet.Bits()), cmp.Compare(a.node, b.node))
	})
	var overlapping group
	var widest claim
	for _, c := range claims {
		if !widest.subnet.IsValid() || !widest.subnet.Overlaps(c.subnet) {
			widest = c
		} else if !widest.virtual || !c.virtual {
			overlapping.add(widest.node, "%s of %s and %s of %s", widest.subnet, widest.node, c.subnet, c.node)
			overlapping.names = append(overlapping.names, c.node)
		}
	}
	return overlapping.problems(problem.Error, "Nodes have overlapping pod subnets, so one of each two has no route: ",
		"find what sets spec.podCIDR twice (two IPAM controllers, or kubelets' --pod-cidr), then delete the Node that came later and let it join again")
}
