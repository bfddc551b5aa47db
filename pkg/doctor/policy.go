package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// policyRules looks up routes, because rules may lead to other tables than the one with ours.
func policyRules(ctx context.Context, t *Target) []problem.Problem {
	var found []problem.Problem
	rules := t.rules()
	selectors := map[bool][]inspect.Selector{true: t.selectors(true), false: t.selectors(false)}
	for _, f := range t.flows(rules) {
		if ctx.Err() != nil || len(found) >= maxProblems {
			break
		}
		for _, selector := range selectors[f.to.Is4()] {
			if problems := t.misrouted(f, selector); problems != nil {
				found = append(found, problems...)
				break
			}
		}
	}
	return found
}

// misrouted reports a flow for which the kernel's route differs from that of the table with ours.
func (t *Target) misrouted(f flow, selector inspect.Selector) []problem.Problem {
	route, err := t.Kernel.Lookup(f.to, f.in, f.from, selector)
	source := "this node"
	if f.from.IsValid() {
		source = f.from.String()
	}
	what := fmt.Sprintf("what goes from %s to %s (%s)", source, f.to, f.kind)
	if selector != (inspect.Selector{}) {
		what += ": " + selector.String()
	}
	switch {
	case errors.Is(err, unix.EXDEV): // an invalid source on that link: see the check rp-filter
	case errors.Is(err, unix.EOPNOTSUPP): // a protocol that the kernel can't look up
	case err != nil:
		return Fail("the kernel has no route for "+what, err.Error(), t.ruleRemedy(f))
	case route.Via != f.via || route.Dev != f.out:
		return Fail("a policy rule bypasses the table "+t.table()+" for "+what, fmt.Sprintf("routed %s, and by the table %s %s", hopOf(route.Via, route.Dev), t.table(), hopOf(f.via, f.out)), t.ruleRemedy(f))
	}
	return nil
}

// selectors returns the selectors to look up: the one of any packet, and those of a family's rules.
func (t *Target) selectors(is4 bool) []inspect.Selector {
	selectors := []inspect.Selector{{}}
	rules, _ := t.Kernel.Rules(is4)
	for _, r := range rules {
		if !slices.Contains(selectors, r.Selector) && len(selectors) <= maxProblems {
			selectors = append(selectors, r.Selector)
		}
	}
	return selectors
}

func hopOf(via netip.Addr, dev string) string {
	if via.IsValid() {
		return "via " + via.String() + " dev " + dev
	}
	return "dev " + dev
}

// rules are the policy rules, and one more for each route in their tables to a part of a pod subnet.
type rules []inspect.Rule

func (t *Target) rules() rules {
	subnets := map[netip.Prefix]bool{}
	for _, s := range t.ownSubnets() {
		subnets[s] = true
	}
	for _, r := range t.State.Routes {
		subnets[r.Dst] = true
	}
	var all rules
	for _, is4 := range []bool{true, false} {
		some, _ := t.Kernel.Rules(is4)
		parts, _ := t.Kernel.Destinations(is4, some, func(dst netip.Prefix) bool { return partOf(subnets, dst) })
		all = append(all, some...)
		for _, dst := range parts {
			all = append(all, inspect.Rule{To: dst})
		}
	}
	return all
}

// partOf reports whether a prefix is a part of one of the subnets.
func partOf(subnets map[netip.Prefix]bool, dst netip.Prefix) bool {
	for bits := dst.Bits() - 1; bits > 0; bits-- {
		if around, err := dst.Addr().Prefix(bits); err == nil && subnets[around] {
			return true
		}
	}
	return false
}

// addrs returns addresses to look up: the usual one, and one of each part that has a rule.
func (r rules) addrs(subnet netip.Prefix, usual netip.Addr) []netip.Addr {
	all := []netip.Addr{usual}
	for _, rule := range r {
		for _, part := range []netip.Prefix{rule.From, rule.To} {
			if part.Bits() <= subnet.Bits() || !subnet.Contains(part.Addr()) || part.Contains(usual) || len(all) > maxProblems {
				continue
			}
			addr := part.Addr()
			if !part.IsSingleIP() {
				addr = addr.Next()
			}
			all = append(all, addr)
		}
	}
	return all
}

// rangeOf returns the known range of pods around an address, so that one rule covers all.
func (t *Target) rangeOf(to netip.Addr) netip.Prefix {
	var ranges []netip.Prefix
	if t.Report != nil {
		ranges = slices.Clone(t.Report.Host.ClusterCIDRs)
	}
	ranges = append(ranges, t.ownSubnets()...)
	for _, r := range t.State.Routes {
		ranges = append(ranges, r.Dst)
	}
	if i := slices.IndexFunc(ranges, func(p netip.Prefix) bool { return p.Contains(to) }); i >= 0 {
		return ranges[i]
	}
	return single(to)
}

// ruleRemedy adds a rule that selects the table with our routes before the first one that selects another.
func (t *Target) ruleRemedy(f flow) string {
	option := map[int]string{4: "", 6: "-6 "}[familyOf(f.to)]
	remedy := "find the program that adds the rule, and change it so that pods' packets use the table " + t.table() + ": `ip " + option + "rule`"
	rules, err := t.Kernel.Rules(f.to.Is4())
	if err != nil {
		return remedy
	}
	priority := mainPriority
	if len(rules) > 0 {
		priority = min(priority, rules[0].Priority)
	}
	if priority > 1 {
		remedy += fmt.Sprintf("; until then: `ip %srule add to %s lookup %s priority %d`", option, t.rangeOf(f.to), t.table(), priority-1)
	}
	return remedy
}

// mainPriority is that of the main table's rule (fib_default_rules_init of net/ipv4/fib_rules.c).
const mainPriority = 32766

// A flow is one kind of packet, and where the table with our routes leads it.
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
	routes := slices.DeleteFunc(slices.Clone(t.State.Routes), func(r *topology.Route) bool {
		return !r.ToPeer() || r.Type != topology.Unicast || t.takenByForeign(r)
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
	for _, r := range spread(routes, maxPeers, func(r *topology.Route) bool { return len(rules.addrs(r.Dst, topology.Gateway(r.Dst))) > 1 }) {
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

func (t *Target) peerFlows(r *topology.Route, rules rules) []flow {
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
	peer, via := t.peerAddr(r)
	if !peer.IsValid() {
		return all
	}
	for _, pod := range pods {
		all = append(all,
			flow{"a peer to a pod here", pod, peer, r.Dev, netip.Addr{}, bridge},
			flow{"a pod here to a peer", peer, pod, bridge, via, r.Dev})
	}
	return all
}

// peerAddr returns the address that packets of a peer itself have on the device of a route to its
// pods, and the gateway to it: its InternalIP on a link of ours, or that of its tunnel. The address
// is invalid if the route leads to a gateway.
func (t *Target) peerAddr(r *topology.Route) (addr, via netip.Addr) {
	if r.Overhead() > 0 {
		return r.Dst.Addr(), r.Via
	}
	return t.State.Endpoint(r), netip.Addr{}
}

// nodeAddrs returns the InternalIPs that this host has, because it can't send from others.
func (t *Target) nodeAddrs() []netip.Addr {
	if t.Report == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(t.Report.Host.Addresses), func(addr netip.Addr) bool { return !t.hasAddr(addr) })
}

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// takenByForeign reports whether the check foreign-routes covers a route of ours.
func (t *Target) takenByForeign(ours *topology.Route) bool {
	return slices.ContainsFunc(t.Host.Beside(), func(r topology.Route) bool {
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
				return slices.ContainsFunc(t.Host.Beside(), func(r topology.Route) bool { return r.Dst.Bits() > s.Bits() && r.Dst.Contains(pod) })
			})
			if len(pods) > 0 {
				return t.State.Bridge, pods
			}
		}
	}
	return "", []netip.Addr{{}}
}
