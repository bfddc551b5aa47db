package doctor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// duplicates looks for what two Nodes have in common and must not.
func duplicates(_ context.Context, p *Patient) []problem.Problem {
	if p.Nodes == nil {
		return Skip("the Nodes are not known: "+errorText(p.NodesErr), "run it in the agent's pod, or give --kubeconfig FILE")
	}
	var machines []*corev1.Node
	for i := range p.Nodes {
		if !virtual(&p.Nodes[i]) {
			machines = append(machines, &p.Nodes[i])
		}
	}
	var found []problem.Problem
	for _, k := range kinds {
		found = append(found, k.find(machines)...)
	}
	return append(found, overlaps(p.Nodes)...)
}

// virtual tells that no machine is behind a Node: it may have the addresses and the
// identity of any. Virtual kubelets bear the taint unless told otherwise.
func virtual(n *corev1.Node) bool {
	return topology.Virtual(n.Labels) ||
		slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "virtual-kubelet.io/provider" })
}

// kind is something of a Node that no other may have.
type kind struct {
	name    string
	verdict problem.Severity
	cure    string
	// of returns what the Node has of it.
	of func(*corev1.Node) []string
	// excused tells that two Nodes may share it; nil: never.
	excused func(a, b *corev1.Node) bool
}

const (
	newIdentity = "give each machine its own: rm /etc/machine-id && systemd-machine-id-setup, then reboot; and clone from an image whose /etc/machine-id is empty"
	newHostname = "give each machine a name of its own (hostnamectl set-hostname) and let it join anew, or set the kubelet's --hostname-override"
)

// kinds are all but pod subnets, which can overlap without being the same.
var kinds = []kind{
	{"InternalIP", problem.Error, "find which machine really has it (arping, `ip address`), and give the other one another, or delete its Node: kubectl delete node NAME", internalIPs, nil},
	{"host name", problem.Warning, newHostname, hostnames, nil},
	{"label kubernetes.io/hostname", problem.Warning, newHostname + "; volumes and spread constraints go by that label", hostnameLabel, nil},
	{"machine ID", problem.Warning, newIdentity, func(n *corev1.Node) []string { return some(n.Status.NodeInfo.MachineID) }, sameKernel},
	{"system UUID", problem.Warning, "give each machine a UUID of its own in its hypervisor", func(n *corev1.Node) []string { return some(strings.ToLower(n.Status.NodeInfo.SystemUUID)) }, sameKernel},
	{"boot ID", problem.Warning, "machines resumed from one snapshot of memory share random numbers and identities: reboot them", func(n *corev1.Node) []string { return some(n.Status.NodeInfo.BootID) }, sameMachine},
}

// sameKernel excuses Nodes in containers of one machine.
func sameKernel(a, b *corev1.Node) bool {
	return a.Status.NodeInfo.BootID != "" && a.Status.NodeInfo.BootID == b.Status.NodeInfo.BootID
}

func sameMachine(a, b *corev1.Node) bool {
	return strings.EqualFold(a.Status.NodeInfo.SystemUUID, b.Status.NodeInfo.SystemUUID)
}

func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func internalIPs(n *corev1.Node) []string {
	var all []string
	for _, a := range topology.NodeFrom(n).Addrs {
		if s := a.String(); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func hostnameLabel(n *corev1.Node) []string { return some(n.Labels[corev1.LabelHostname]) }

func hostnames(n *corev1.Node) []string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeHostName {
			return some(a.Address)
		}
	}
	return nil
}

func (k kind) find(nodes []*corev1.Node) []problem.Problem {
	owners := map[string][]*corev1.Node{}
	for _, n := range nodes {
		for _, value := range k.of(n) {
			owners[value] = append(owners[value], n)
		}
	}
	var all, shown []string
	for _, value := range slices.Sorted(maps.Keys(owners)) {
		group := owners[value]
		if len(group) < 2 || k.excused != nil && !slices.ContainsFunc(group, func(n *corev1.Node) bool { return !k.excused(group[0], n) }) {
			continue
		}
		var names []string
		for _, n := range group {
			names = append(names, n.Name)
		}
		all = append(all, names...)
		shown = append(shown, value+" of "+named(names))
	}
	if len(all) == 0 {
		return nil
	}
	return []problem.Problem{{Severity: k.verdict, Message: "Nodes have the same " + k.name + ": " + named(all), Evidence: first(shown), Remediation: k.cure}}
}

// overlaps finds pod subnets that are the same, or of which one is in the other: sorted
// by address, the wider first, each has to begin after all those before it. Those of two
// virtual nodes may, for no pod has an address of them.
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
	var all, shown []string
	var widest claim
	for _, c := range claims {
		if !widest.subnet.IsValid() || !widest.subnet.Overlaps(c.subnet) {
			widest = c
			continue
		}
		if widest.virtual && c.virtual {
			continue
		}
		all = append(all, widest.node, c.node)
		shown = append(shown, fmt.Sprintf("%s of %s and %s of %s", widest.subnet, widest.node, c.subnet, c.node))
	}
	if len(all) == 0 {
		return nil
	}
	return []problem.Problem{Fail("Nodes have overlapping pod subnets, so one of each two has no route: "+named(all), first(shown),
		"find who sets spec.podCIDR twice (two IPAM controllers, or kubelets' --pod-cidr), then delete the Node that came later and let it join anew")}
}
