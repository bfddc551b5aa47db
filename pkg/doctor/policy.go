package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// policyRules looks up the kernel's routes for the packets that a cluster needs. Policy rules may
// make the kernel use other tables than main, which has our routes.
func policyRules(ctx context.Context, t *Target) []problem.Problem {
	if t.Kernel == nil || t.KernelErr != nil {
		return Skip("the kernel can't be looked at", "")
	}
	var found []problem.Problem
	rules := t.rules()
	selectors := map[bool][]inspect.Selector{true: t.selectors(true), false: t.selectors(false)}
	for _, w := range t.flows(rules) {
		if ctx.Err() != nil || len(found) >= maxProblems {
			break
		}
		for _, selector := range selectors[w.to.Is4()] {
			if f, misrouted := t.misrouted(w, selector); misrouted {
				found = append(found, f)
				break
			}
		}
	}
	return found
}

// misrouted reports whether the kernel routes packets differently from the main table.
func (t *Target) misrouted(w flow, selector inspect.Selector) (problem.Problem, bool) {
	route, err := t.Kernel.Lookup(w.to, w.in, w.from, selector)
	what := fmt.Sprintf("what goes from %s to %s (%s)", orSource(w.from), w.to, w.kind)
	if selector != (inspect.Selector{}) {
		what += ": " + selector.String()
	}
	switch {
	case errors.Is(err, unix.EXDEV): // an invalid source on that link: see the check rp-filter
	case errors.Is(err, unix.EOPNOTSUPP): // a protocol that the kernel can't look up
	case err != nil:
		return Fail("the kernel has no route for "+what, err.Error(), t.ruleRemedy(w)), true
	case route.Via != w.via || route.Dev != w.out:
		return Fail("a policy rule bypasses the main table for "+what, fmt.Sprintf("routed %s, and by the main table %s", hopOf(route.Via, route.Dev), hopOf(w.via, w.out)), t.ruleRemedy(w)), true
	}
	return problem.Problem{}, false
}

// selectors returns the selectors to look up: the one of any packet, and those of a family's rules.
func (t *Target) selectors(is4 bool) []inspect.Selector {
	selectors := []inspect.Selector{{}}
	rules, err := t.Kernel.Rules(is4)
	if err != nil {
		return selectors
	}
	for _, r := range rules {
		if !slices.Contains(selectors, r.Selector) && len(selectors) <= maxProblems {
			selectors = append(selectors, r.Selector)
		}
	}
	return selectors
}

func orSource(from netip.Addr) string {
	if !from.IsValid() {
		return "this node"
	}
	return from.String()
}

func hopOf(via netip.Addr, dev string) string {
	if via.IsValid() {
		return "via " + via.String() + " dev " + dev
	}
	return "dev " + dev
}

// A flow is one kind of packet, and where the main table routes it.
type flow struct {
	kind     string
	to, from netip.Addr
	// in is the input device, "" if this host sends the packet.
	in  string // the device where it comes in; empty: this host sends it
	via netip.Addr
	out string
	// dst is the range for which a rule has to select the main table first.
	dst netip.Prefix
}

// flows returns the packets to look up: from pods here to all peers' pods, and all other kinds to
// and from a sample of the peers.
func (t *Target) flows(rules rules) []flow {
	var routes []topology.Route
	for _, r := range t.State.Routes {
		if r.Metric == topology.MetricPeer && r.Type == topology.Unicast && !t.takenByMain(r) {
			routes = append(routes, r)
		}
	}
	var all []flow
	for _, r := range routes {
		bridge, pods := t.podsOf(r.Dst.Addr().Is4(), rules)
		for _, there := range rules.addrs(r.Dst, gateway(r.Dst)) {
			for _, pod := range pods {
				all = append(all, flow{"a pod here to a peer's pod", there, pod, bridge, r.Via, r.Dev, t.rangeOf(r.Dst)})
			}
		}
	}
	for _, r := range spread(routes, maxPeers, func(r topology.Route) bool { return len(rules.addrs(r.Dst, gateway(r.Dst))) > 1 }) {
		all = append(all, t.peerFlows(r, rules)...)
	}
	for _, node := range t.nodeAddrs() {
		bridge, pods := t.podsOf(node.Is4(), rules)
		for _, pod := range pods {
			if bridge != "" {
				all = append(all, flow{"this node to a pod here", pod, node, "", netip.Addr{}, bridge, t.rangeOf(single(pod))})
			}
		}
	}
	return all
}

func (t *Target) peerFlows(r topology.Route, rules rules) []flow {
	var all []flow
	bridge, pods := t.podsOf(r.Dst.Addr().Is4(), rules)
	for _, there := range rules.addrs(r.Dst, gateway(r.Dst)) {
		for _, node := range t.nodeAddrs() {
			if node.Is4() == r.Dst.Addr().Is4() {
				all = append(all, flow{"this node to a peer's pod", there, node, "", r.Via, r.Dev, t.rangeOf(r.Dst)})
			}
		}
		for _, pod := range pods {
			if bridge != "" {
				all = append(all, flow{"a peer's pod to a pod here", pod, there, r.Dev, netip.Addr{}, bridge, t.rangeOf(single(pod))})
			}
		}
	}
	for _, pod := range pods {
		if bridge != "" {
			all = append(all,
				flow{"a peer to a pod here", pod, r.Via, r.Dev, netip.Addr{}, bridge, t.rangeOf(single(pod))},
				flow{"a pod here to a peer", r.Via, pod, bridge, netip.Addr{}, r.Dev, single(r.Via)})
		}
	}
	return all
}

// rules are the policy rules of both families that select other tables than main, and one more for
// each route in these tables to a part of a pod subnet.
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
		some, err := t.Kernel.Rules(is4)
		if err != nil {
			continue
		}
		all = append(all, some...)
		parts, err := t.Kernel.Destinations(is4, some, func(dst netip.Prefix) bool { return partOf(subnets, dst) })
		if err != nil {
			continue
		}
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

// addrs returns addresses of a subnet to look up: the usual one, and one of each part of the subnet
// that has a rule, such as that of a single pod.
func (r rules) addrs(subnet netip.Prefix, usual netip.Addr) []netip.Addr {
	all := []netip.Addr{usual}
	for _, rule := range r {
		for _, part := range []netip.Prefix{rule.From, rule.To} {
			if part.Bits() <= subnet.Bits() || !subnet.Contains(part.Addr()) || part.Contains(usual) || len(all) > maxProblems {
				continue
			}
			if part.IsSingleIP() {
				all = append(all, part.Addr())
			} else {
				all = append(all, part.Addr().Next())
			}
		}
	}
	return all
}

// nodeAddrs returns the InternalIPs that this host has, because it can't send from others.
func (t *Target) nodeAddrs() []netip.Addr {
	if t.Report == nil {
		return nil
	}
	var all []netip.Addr
	for _, addr := range t.Report.Host.Addresses {
		if slices.ContainsFunc(t.Host.Links, func(l topology.Link) bool {
			return slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool { return a.Addr() == addr })
		}) {
			all = append(all, addr)
		}
	}
	return all
}

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// rangeOf returns the known range of pods around a subnet, so that one rule covers all.
func (t *Target) rangeOf(subnet netip.Prefix) netip.Prefix {
	if t.Report != nil {
		for _, c := range t.Report.Host.ClusterCIDRs {
			if c.Overlaps(subnet) {
				return c
			}
		}
	}
	if subnet.IsSingleIP() {
		for _, s := range t.ownSubnets() {
			if s.Contains(subnet.Addr()) {
				return s
			}
		}
	}
	return subnet
}

// ruleRemedy adds a rule that selects the main table before the first rule that selects another
// one.
func (t *Target) ruleRemedy(w flow) string {
	remedy := "find the program that adds the rule, and change it so that pods' packets use the main table: `ip " + familyOption(w.to) + "rule`"
	rules, err := t.Kernel.Rules(w.to.Is4())
	if err != nil {
		return remedy
	}
	priority := mainPriority
	if len(rules) > 0 {
		priority = min(priority, rules[0].Priority)
	}
	if priority > 1 {
		remedy += fmt.Sprintf("; until then: `ip %srule add to %s lookup main priority %d`", familyOption(w.to), w.dst, priority-1)
	}
	return remedy
}

// mainPriority is the priority of the rule for the main table (fib_default_rules_init of
// net/ipv4/fib_rules.c).
const mainPriority = 32766

func familyOption(a netip.Addr) string {
	if a.Is4() {
		return ""
	}
	return "-6 "
}

// maxProblems bounds the problems of one kind that a check reports.
const maxProblems = 8

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

// reversePath looks for links that drop packets from peers' pods because replies would leave by
// another link (strict mode of RFC 3704). The effective rp_filter is the maximum of the device's
// and that of all (ip-sysctl.rst).
func reversePath(_ context.Context, t *Target) []problem.Problem {
	if t.Report == nil {
		return Skip("the agent does not answer, so the uplinks are unknown", "for the reason: plainroute status")
	}
	strict := map[string]string{}
	for _, u := range t.Report.Host.Uplinks {
		if path, ok := t.strict(u.Name); ok && t.hasInternalIP4(u.Name) {
			strict[u.Name] = path
		}
	}
	for _, r := range t.State.Routes {
		if r.Metric != topology.MetricPeer || !r.Dst.Addr().Is4() || strict[r.Dev] != "" {
			continue
		}
		for _, dev := range slices.Sorted(maps.Keys(strict)) {
			return []problem.Problem{Fail("packets from peers' pods by "+dev+" are dropped, because replies leave by "+r.Dev,
				fmt.Sprintf("%s=1, and the route is %s", strict[dev], r), "loosen it: `sysctl -w net/ipv4/conf/"+dev+"/rp_filter=2`")}
		}
	}
	return nil
}

// hasInternalIP4 reports whether a link has an InternalIP of IPv4, to which peers send packets for
// the pods.
func (t *Target) hasInternalIP4(dev string) bool {
	return slices.ContainsFunc(t.Host.Links, func(l topology.Link) bool {
		return l.Name == dev && slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool {
			return a.Addr().Is4() && slices.Contains(t.Report.Host.Addresses, a.Addr())
		})
	})
}

// strict reports whether a device has strict reverse path filtering, and the setting that causes
// it.
func (t *Target) strict(dev string) (string, bool) {
	worst, at := 0, ""
	for _, name := range []string{"all", dev} {
		path := topology.ConfSysctl(4, name, "rp_filter")
		value, err := t.Setting(path)
		if n, e := strconv.Atoi(value); err == nil && e == nil && n > worst {
			worst, at = n, path
		}
	}
	return at, worst == 1
}
