package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// ownSubnets finds our own pod subnets, adds their unreachable routes, because of which the kernel
// refuses packets to missing pods, and finds the uplinks.
func (b *builder) ownSubnets() {
	switch {
	case b.opts.Router:
		return
	case b.own == nil:
		b.ownProblem(problem.NodeMissing, "the API server has no Node of this name; waiting for kubelet to register it (is --node-name right?)")
	case b.own.lacksPodCIDR():
		b.ownProblem(problem.PodCIDRMissing, "the Node has no podCIDR yet; kube-controller-manager gives it one when run with --allocate-node-cidrs and --cluster-cidr")
	default:
		b.acceptOwn()
	}
	if len(b.subnets) == 0 { // these stay until a subnet of ours is known
		b.desired.Routes = slices.DeleteFunc(slices.Clone(b.actual.Routes), func(r *Route) bool { return r.Type != Unreachable || r.Metric != MetricOwn })
	}
	for _, p := range b.subnets {
		b.desired.Routes = append(b.desired.Routes, b.shared(&Route{Type: Unreachable, Dst: p, Protocol: Protocol, Metric: MetricOwn}))
		b.findUplink(p.Addr().Is4())
	}
}

func (b *builder) acceptOwn() {
	for _, p := range b.own.Problems {
		b.report(p.Blocking(p.Reason == problem.PodCIDRMalformed))
	}
	var accepted []netip.Prefix
	for _, p := range b.own.PodCIDRs {
		why, clash := cmp.Or(b.validator.refuse(p), tooSmall(p)), clashOf(&b.validator.taken, p)
		if why == "" {
			b.stated = append(b.stated, p)
		}
		if route := RouteTo(b.actual.Routes, p, MetricOwn); why == "" && (route == nil || route.Type != Unreachable) {
			why = clash
		}
		if why != "" {
			b.ownProblem(problem.PodCIDRRefused, "%s", why)
			continue
		}
		if clash != "" {
			b.warn(problem.RangeOverlap, "%s; it is in use and stays, but that and a pod can't both have one address", clash)
		}
		accepted = append(accepted, p)
	}
	b.serveFamilies(accepted)
	b.unroutable()
}

// findUplink finds the link with our Node's InternalIP of a family.
func (b *builder) findUplink(is4 bool) {
	for _, addr := range b.ownAddrs {
		if link, as := b.host.linkWith(addr); as.IsValid() && addr.Is4() == is4 {
			b.uplinks[is4] = link
			return
		}
	}
	switch off := b.switchedOff(); {
	case !is4 && len(off) > 0:
		b.off6 = true
		b.ownProblem(problem.AddressMissing, "IPv6 is switched off on this host, so no link has the Node's IPv6 InternalIP (%s); set these to 0 and give the link its address back", strings.Join(off, ", "))
	case b.own.firstAddr(is4).IsValid():
		b.ownProblem(problem.AddressMissing, "no link of this host has the Node's %s InternalIP; peers route our pods' traffic to it", familyName(is4))
	default:
		b.ownProblem(problem.AddressMissing, "the Node has a pod subnet but no InternalIP of %s; give kubelet --node-ip", familyName(is4))
	}
}

// ownLinks returns the names of the links with our InternalIPs, except lo: peers may send by each.
func (b *builder) ownLinks() map[string]bool {
	names := map[string]bool{}
	for _, addr := range b.ownAddrs {
		if link, as := b.host.linkWith(addr); as.IsValid() && !link.Loopback {
			names[link.Name] = true
		}
	}
	return names
}

// serveFamilies keeps those of our accepted subnets whose family this host can serve: not IPv6 if
// the kernel lacks it, nor one of which the Node has no InternalIP, but one of the other. While the
// CNI config has such a subnet, pods have addresses of it, so it stays, and findUplink reports the
// problem. A family that is left out blocks readiness only if the node is left without any.
func (b *builder) serveFamilies(accepted []netip.Prefix) {
	hasAddress := func(p netip.Prefix) bool { return b.own.firstAddr(p.Addr().Is4()).IsValid() }
	var left []problem.Problem
	for _, p := range accepted {
		switch is4 := p.Addr().Is4(); {
		case b.lacksFamily(is4):
			left = append(left, problemOf(b.opts.NodeName, p, problem.SettingMissing, "IPv6 is off in this host's kernel, so the Node's %s is not served; boot without ipv6.disable=1, or take IPv6 out of the cluster's ranges", p))
		case hasAddress(p), slices.Contains(b.attached, p), !slices.ContainsFunc(accepted, hasAddress):
			b.subnets = append(b.subnets, p)
		default:
			left = append(left, problemOf(b.opts.NodeName, p, problem.AddressMissing, "the Node has no InternalIP of %s, so its %s is not served: pods get addresses of the other family alone; give kubelet --node-ip one of each", familyName(is4), p))
		}
	}
	for _, why := range left {
		b.report(why.Blocking(len(b.subnets) == 0))
	}
}

func (b *builder) lacksFamily(is4 bool) bool { return b.host.NoIPv6 && !is4 }

// PodCapacity returns the number of addresses that host-local has for pods in a subnet. It reserves
// the first two, the network's and the gateway's, and in IPv4 the last one, for broadcasts
// (allocator.go of plugins/ipam/host-local). It is 1<<30 at most.
func PodCapacity(subnet netip.Prefix) int {
	bits := subnet.Addr().BitLen() - subnet.Bits()
	return max(0, 1<<min(bits, 30)-choose(subnet.Addr().Is4(), 3, 2))
}

// tooSmall returns why no pod can get an address of a subnet, or "".
func tooSmall(p netip.Prefix) string {
	if bits := longest(p.Addr().Is4()); p.Bits() > bits {
		return fmt.Sprintf("podCIDR %s has no room for a pod, which takes a /%d at least (--node-cidr-mask-size of the controller manager)", p, bits)
	}
	return ""
}

// unroutable reports InternalIPs of our own Node that agents with the same options refuse as a next
// hop.
func (b *builder) unroutable() {
	for _, p := range b.own.PodCIDRs {
		addr := b.own.firstAddr(p.Addr().Is4())
		others := slices.ContainsFunc(b.own.Addrs, func(a netip.Addr) bool { return a.Is4() == p.Addr().Is4() && b.resolver.excluded(a) == "" })
		if addr.IsValid() && !others {
			b.warn(problem.AddressRefused, "InternalIP %s %s, so no other node routes to this node's pods", addr, b.resolver.excluded(addr))
		}
	}
}
