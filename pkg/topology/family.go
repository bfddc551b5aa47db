package topology

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// families are the address families with what differs between them.
var families = []struct {
	is4                             bool
	number                          int // in paths of settings
	forward, noForward, bridgeNF    string
	suffix, nft, setType, multicast string // in our nftables table
}{
	{true, 4, SysctlForward4, "IPv4 is off in this kernel", SysctlBridgeNF4, "4", "ip", "ipv4_addr", "224.0.0.0/4"},
	{false, 6, SysctlForward6, "IPv6 is off in this kernel, yet there are IPv6 pod subnets", SysctlBridgeNF6, "6", "ip6", "ipv6_addr", "ff00::/8"},
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
		case hasAddress(p), b.attached(p), !slices.ContainsFunc(accepted, hasAddress):
			b.subnets = append(b.subnets, p)
		default:
			left = append(left, problemOf(b.opts.NodeName, p, problem.AddressMissing, "the Node has no InternalIP of %s, so its %s is not served: pods get addresses of the other family alone; give kubelet --node-ip one of each", familyName(is4), p))
		}
	}
	for _, why := range left {
		why.BlocksReady = len(b.subnets) == 0
		b.report(why)
	}
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

// tooSmall returns why no pod can get an address of a subnet, or "".
func tooSmall(p netip.Prefix) string {
	if bits := longest(p.Addr().Is4()); p.Bits() > bits {
		return fmt.Sprintf("podCIDR %s has no room for a pod, which takes a /%d at least (--node-cidr-mask-size of the controller manager)", p, bits)
	}
	return ""
}
