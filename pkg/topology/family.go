package topology

import (
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// serveFamilies keeps those of our accepted subnets whose family this host can serve. Another
// family is reported once, and blocks readiness only if the node is left without any: with a
// dual-stack podCIDR a host with IPv4 alone serves IPv4.
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
		why.BlocksReady = len(b.subnets) == 0
		b.report(why)
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

func familyName(is4 bool) string {
	if is4 {
		return "IPv4"
	}
	return "IPv6"
}
