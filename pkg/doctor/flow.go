package doctor

import (
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A flow is one kind of packet, and where the main table routes it.
type flow struct {
	kind     string
	to, from netip.Addr
	in       string // the input device, "" if this host sends the packet
	via      netip.Addr
	out      string
}

// flows returns the packets to look up: from pods here to all peers' pods, and all other kinds to
// and from a sample of the peers.
func (t *Target) flows(rules rules) []flow {
	routes := slices.DeleteFunc(slices.Clone(t.State.Routes), func(r topology.Route) bool {
		return r.Metric != topology.MetricPeer || r.Type != topology.Unicast || t.takenByMain(r)
	})
	var all []flow
	for _, r := range routes {
		bridge, pods := t.podsOf(r.Dst.Addr().Is4(), rules)
		for _, there := range rules.addrs(r.Dst, topology.Gateway(r.Dst)) {
			for _, pod := range pods {
				all = append(all, flow{"a pod here to a peer's pod", there, pod, bridge, r.Via, r.Dev})
			}
		}
	}
	for _, r := range spread(routes, maxPeers, func(r topology.Route) bool { return len(rules.addrs(r.Dst, topology.Gateway(r.Dst))) > 1 }) {
		all = append(all, t.peerFlows(r, rules)...)
	}
	for _, node := range t.nodeAddrs() {
		bridge, pods := t.podsOf(node.Is4(), rules)
		for _, pod := range pods {
			if bridge != "" {
				all = append(all, flow{"this node to a pod here", pod, node, "", netip.Addr{}, bridge})
			}
		}
	}
	return all
}

func (t *Target) peerFlows(r topology.Route, rules rules) []flow {
	var all []flow
	bridge, pods := t.podsOf(r.Dst.Addr().Is4(), rules)
	if bridge == "" {
		pods = nil
	}
	for _, there := range rules.addrs(r.Dst, topology.Gateway(r.Dst)) {
		for _, node := range t.nodeAddrs() {
			if node.Is4() == r.Dst.Addr().Is4() {
				all = append(all, flow{"this node to a peer's pod", there, node, "", r.Via, r.Dev})
			}
		}
		for _, pod := range pods {
			all = append(all, flow{"a peer's pod to a pod here", pod, there, r.Dev, netip.Addr{}, bridge})
		}
	}
	for _, pod := range pods {
		all = append(all,
			flow{"a peer to a pod here", pod, r.Via, r.Dev, netip.Addr{}, bridge},
			flow{"a pod here to a peer", r.Via, pod, bridge, netip.Addr{}, r.Dev})
	}
	return all
}

// nodeAddrs returns the InternalIPs that this host has, because it can't send from others.
func (t *Target) nodeAddrs() []netip.Addr {
	if t.Report == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(t.Report.Host.Addresses), func(addr netip.Addr) bool { return !t.hasAddr(addr) })
}

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// takenByMain reports whether the check foreign-routes covers a route of ours.
func (t *Target) takenByMain(ours topology.Route) bool {
	return slices.ContainsFunc(t.Host.Routes, func(r topology.Route) bool {
		return r.Dst.Bits() >= ours.Dst.Bits() && ours.Dst.Overlaps(r.Dst)
	})
}

// podsOf returns the input device and the source addresses of our own pods' packets. The device is
// "" if there are no pods, or if the check foreign-routes covers them.
func (t *Target) podsOf(is4 bool, rules rules) (string, []netip.Addr) {
	if t.Report == nil || t.State.Bridge == "" {
		return "", []netip.Addr{{}}
	}
	for _, s := range t.Report.Host.Subnets {
		if s.Addr().Is4() == is4 && slices.ContainsFunc(t.State.Addresses, func(a topology.Address) bool { return s.Contains(a.Prefix.Addr()) }) {
			pods := slices.DeleteFunc(rules.addrs(s, s.Addr().Next().Next()), func(pod netip.Addr) bool {
				return slices.ContainsFunc(t.Host.Routes, func(r topology.Route) bool { return r.Dst.Bits() > s.Bits() && r.Dst.Contains(pod) })
			})
			if len(pods) > 0 {
				return t.State.Bridge, pods
			}
		}
	}
	return "", []netip.Addr{{}}
}
