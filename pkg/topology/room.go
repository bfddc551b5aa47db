package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Room returns how many pods host-local has addresses for in a subnet. It gives neither the
// first two, the network's and the gateway's, nor in IPv4 the last, which is for broadcasts
// (allocator.go of plugins/ipam/host-local). More than 1<<30 are returned as that.
func Room(subnet netip.Prefix) int {
	bits, reserved := subnet.Addr().BitLen()-subnet.Bits(), 2
	if subnet.Addr().Is4() {
		reserved = 3
	}
	return max(0, 1<<min(bits, 30)-reserved)
}

// lacksRoom returns why no pod can get an address of a subnet, or "". host-local takes no
// IPv4 subnet longer than /30, and no IPv6 one longer than /126.
func lacksRoom(p netip.Prefix) string {
	if longest := p.Addr().BitLen() - 2; p.Bits() > longest {
		return fmt.Sprintf("podCIDR %s has no room for a pod, which takes a /%d at least (--node-cidr-mask-size of the controller manager)", p, longest)
	}
	return ""
}

// fullSubnets reports pod subnets of which all addresses are leased. The pods that have them
// are served, so that does not make the node unready: a rollout of the agents must not wait
// until pods are deleted.
func (b *builder) fullSubnets() {
	for _, p := range b.subnets {
		leased := 0
		for _, addr := range b.host.Leases {
			if p.Contains(addr) {
				leased++
			}
		}
		if room := Room(p); leased >= room {
			b.report(problem.Problem{Subject: problem.Subject{Node: b.opts.NodeName, Subnet: p}, Reason: problem.SubnetFull, Message: fmt.Sprintf(
				"all %d addresses that %s has for pods are leased, so no pod can be made here until one is deleted", room, p)})
		}
	}
}

// unfitPlugins reports CNI plugins by which no pod can be attached. The config is not written
// before they are there. One that is in place stays: it is needed to detach pods too.
func (b *builder) unfitPlugins() {
	if b.opts.Router || len(b.host.UnfitPlugins) == 0 {
		return
	}
	var faults []string
	for name, why := range b.host.UnfitPlugins {
		if name != FirewallPlugin || b.opts.Firewall {
			faults = append(faults, why)
		}
	}
	if len(faults) == 0 {
		return
	}
	slices.Sort(faults)
	b.ownProblem(problem.PluginMissing, "no pod can be attached: %s", strings.Join(slices.Compact(faults), "; "))
}
