package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// serveFamilies keeps those of our accepted subnets whose family this host can serve. Another
// family is reported once, and blocks readiness only if the node is left without any.
func (b *builder) serveFamilies(accepted []netip.Prefix) {
	var left []problem.Problem
	for _, p := range accepted {
		if why, unserved := b.unserved(p, accepted); unserved {
			left = append(left, why)
		} else {
			b.subnets = append(b.subnets, p)
		}
	}
	for _, why := range left {
		b.report(why.Blocking(len(b.subnets) == 0))
	}
}

// unserved reports whether the family of a pod subnet is left out, and why: the kernel lacks IPv6,
// or the Node has an InternalIP of the other family alone. While the CNI config has the subnet,
// pods have addresses of it, so it stays, and findUplink reports the problem.
func (b *builder) unserved(p netip.Prefix, accepted []netip.Prefix) (problem.Problem, bool) {
	is4 := p.Addr().Is4()
	hasAddress := func(p netip.Prefix) bool { return b.own.firstAddr(p.Addr().Is4()).IsValid() }
	switch {
	case b.lacksFamily(is4):
		return problemOf(b.opts.NodeName, p, problem.SettingMissing, "IPv6 is off in this host's kernel, so the Node's %s is not served; boot without ipv6.disable=1, or take IPv6 out of the cluster's ranges", p), true
	case hasAddress(p), b.attached(p), !slices.ContainsFunc(accepted, hasAddress):
		return problem.Problem{}, false
	}
	return problemOf(b.opts.NodeName, p, problem.AddressMissing, "the Node has no InternalIP of %s, so its %s is not served: pods get addresses of the other family alone; give kubelet --node-ip one of each", familyName(is4), p), true
}

// attached reports whether the CNI config in place gives pods addresses of the subnet.
func (b *builder) attached(p netip.Prefix) bool {
	return b.actual.CNI != nil && slices.Contains(b.actual.CNI.Subnets, p)
}

func (b *builder) lacksFamily(is4 bool) bool { return b.host.NoIPv6 && !is4 }

func familyName(is4 bool) string { return choose(is4, "IPv4", "IPv6") }

// PodCapacity returns the number of addresses that host-local has for pods in a subnet. It reserves
// the first two, the network's and the gateway's, and in IPv4 the last one, for broadcasts
// (allocator.go of plugins/ipam/host-local). It is 1<<30 at most.
func PodCapacity(subnet netip.Prefix) int {
	bits := subnet.Addr().BitLen() - subnet.Bits()
	return max(0, 1<<min(bits, 30)-choose(subnet.Addr().Is4(), 3, 2))
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
