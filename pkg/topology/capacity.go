package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// PodCapacity returns the number of addresses that host-local has for pods in a subnet. It reserves
// the first two, the network's and the gateway's, and in IPv4 the last one, for broadcasts
// (allocator.go of plugins/ipam/host-local). It is 1<<30 at most.
func PodCapacity(subnet netip.Prefix) int {
	bits, reserved := subnet.Addr().BitLen()-subnet.Bits(), 2
	if subnet.Addr().Is4() {
		reserved = 3
	}
	return max(0, 1<<min(bits, 30)-reserved)
}

// tooSmall returns why no pod can get an address of a subnet, or "". host-local refuses IPv4
// subnets longer than /30, and IPv6 ones longer than /126.
func tooSmall(p netip.Prefix) string {
	if longest := p.Addr().BitLen() - 2; p.Bits() > longest {
		return fmt.Sprintf("podCIDR %s has no room for a pod, which takes a /%d at least (--node-cidr-mask-size of the controller manager)", p, longest)
	}
	return ""
}

// fullSubnets reports pod subnets with all addresses leased. The node stays ready, because its pods
// are served, and a rollout of the agents must not wait until pods are deleted.
func (b *builder) fullSubnets() {
	for _, p := range b.subnets {
		if room := PodCapacity(p); b.leased(p) >= room {
			b.report(problemOf(b.opts.NodeName, p, problem.SubnetFull, "all %d addresses that %s has for pods are leased, so no pod can be made here until one is deleted", room, p))
		}
	}
}

// unfitPlugins reports missing or broken CNI plugins. Without them the config is not written. An
// existing one stays, because pods are detached with it too.
func (b *builder) unfitPlugins() {
	var reasons []string
	for name, why := range b.host.UnfitPlugins {
		if !b.opts.Router && (name != FirewallPlugin || b.opts.Firewall) {
			reasons = append(reasons, why)
		}
	}
	if len(reasons) > 0 {
		slices.Sort(reasons)
		b.ownProblem(problem.PluginMissing, "no pod can be attached: %s", strings.Join(slices.Compact(reasons), "; "))
	}
}
