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

// policyRules asks the kernel itself where it sends the packets that a cluster needs: rules may have it
// look into other tables than main, where our routes are not.
func policyRules(ctx context.Context, p *Patient) []problem.Problem {
	if p.Kernel == nil || p.KernelErr != nil {
		return Skip("the kernel can't be looked at", "")
	}
	var found []problem.Problem
	rules := p.rules()
	selectors := map[bool][]inspect.Selector{true: p.selectors(true), false: p.selectors(false)}
	for _, w := range p.ways(rules) {
		if ctx.Err() != nil || len(found) >= manyFindings {
			break
		}
		for _, selector := range selectors[w.to.Is4()] {
			if f, astray := p.astray(w, selector); astray {
				found = append(found, f)
				break
			}
		}
	}
	return found
}

// astray reports whether the kernel sends a kind of packet otherwise than by the main table.
func (p *Patient) astray(w way, selector inspect.Selector) (problem.Problem, bool) {
	route, err := p.Kernel.Lookup(w.to, w.in, w.from, selector)
	what := fmt.Sprintf("what goes from %s to %s (%s)", orSource(w.from), w.to, w.kind)
	if selector != (inspect.Selector{}) {
		what += ": " + selector.String()
	}
	switch {
	case errors.Is(err, unix.EXDEV): // the source is not valid on that link: see the check rp-filter
	case errors.Is(err, unix.EOPNOTSUPP): // a protocol that can't be asked about
	case err != nil:
		return Fail("the kernel has no way for "+what, err.Error(), p.ruleCure(w)), true
	case route.Via != w.via || route.Dev != w.out:
		return Fail("a rule sends past the main table "+what, fmt.Sprintf("they go %s, and by the main table %s", hopOf(route.Via, route.Dev), hopOf(w.via, w.out)), p.ruleCure(w)), true
	}
	return problem.Problem{}, false
}

// selectors returns the selectors to look up: the one of any packet, and those of a family's rules.
func (p *Patient) selectors(is4 bool) []inspect.Selector {
	selectors := []inspect.Selector{{}}
	rules, err := p.Kernel.Rules(is4)
	if err != nil {
		return selectors
	}
	for _, r := range rules {
		if !slices.Contains(selectors, r.Selector) && len(selectors) <= manyFindings {
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

// A way is one kind of packet, and where the main table sends it.
type way struct {
	kind     string
	to, from netip.Addr
	in       string // the device where it comes in; empty: this host sends it
	via      netip.Addr
	out      string
	// dst is the range to which main has to be asked first.
	dst netip.Prefix
}

// ways are the packets that policyRules asks about: from pods here to all peers' pods, and to and
// from a sample of the peers every other kind.
func (p *Patient) ways(rules rules) []way {
	var routes []topology.Route
	for _, r := range p.State.Routes {
		if r.Metric == topology.MetricPeer && r.Type == topology.Unicast && !p.takenByMain(r) {
			routes = append(routes, r)
		}
	}
	var all []way
	for _, r := range routes {
		bridge, pods := p.podsOf(r.Dst.Addr().Is4(), rules)
		for _, there := range rules.addrs(r.Dst, gateway(r.Dst)) {
			for _, pod := range pods {
				all = append(all, way{"a pod here to a peer's pod", there, pod, bridge, r.Via, r.Dev, p.rangeOf(r.Dst)})
			}
		}
	}
	for _, r := range spread(routes, sampled, func(r topology.Route) bool { return len(rules.addrs(r.Dst, gateway(r.Dst))) > 1 }) {
		all = append(all, p.waysOfPeer(r, rules)...)
	}
	for _, node := range p.nodeAddrs() {
		bridge, pods := p.podsOf(node.Is4(), rules)
		for _, pod := range pods {
			if bridge != "" {
				all = append(all, way{"this node to a pod here", pod, node, "", netip.Addr{}, bridge, p.rangeOf(single(pod))})
			}
		}
	}
	return all
}

func (p *Patient) waysOfPeer(r topology.Route, rules rules) []way {
	var all []way
	bridge, pods := p.podsOf(r.Dst.Addr().Is4(), rules)
	for _, there := range rules.addrs(r.Dst, gateway(r.Dst)) {
		for _, node := range p.nodeAddrs() {
			if node.Is4() == r.Dst.Addr().Is4() {
				all = append(all, way{"this node to a peer's pod", there, node, "", r.Via, r.Dev, p.rangeOf(r.Dst)})
			}
		}
		for _, pod := range pods {
			if bridge != "" {
				all = append(all, way{"a peer's pod to a pod here", pod, there, r.Dev, netip.Addr{}, bridge, p.rangeOf(single(pod))})
			}
		}
	}
	for _, pod := range pods {
		if bridge != "" {
			all = append(all,
				way{"a peer to a pod here", pod, r.Via, r.Dev, netip.Addr{}, bridge, p.rangeOf(single(pod))},
				way{"a pod here to a peer", r.Via, pod, bridge, netip.Addr{}, r.Dev, single(r.Via)})
		}
	}
	return all
}

// rules are those that lead to other tables than main, of both families, and one more for each
// route in these tables to a part of a pod subnet.
type rules []inspect.Rule

func (p *Patient) rules() rules {
	subnets := map[netip.Prefix]bool{}
	for _, s := range p.ownSubnets() {
		subnets[s] = true
	}
	for _, r := range p.State.Routes {
		subnets[r.Dst] = true
	}
	var all rules
	for _, is4 := range []bool{true, false} {
		some, err := p.Kernel.Rules(is4)
		if err != nil {
			continue
		}
		all = append(all, some...)
		parts, err := p.Kernel.Destinations(is4, some, func(dst netip.Prefix) bool { return partOf(subnets, dst) })
		if err != nil {
			continue
		}
		for _, dst := range parts {
			all = append(all, inspect.Rule{To: dst})
		}
	}
	return all
}

// partOf reports whether a prefix is inside one of the subnets, and not all of it.
func partOf(subnets map[netip.Prefix]bool, dst netip.Prefix) bool {
	for bits := dst.Bits() - 1; bits > 0; bits-- {
		if around, err := dst.Addr().Prefix(bits); err == nil && subnets[around] {
			return true
		}
	}
	return false
}

// addrs are addresses of a subnet to ask about: the usual one, and one of each part of the subnet for
// which there is a rule, such as that of a single pod.
func (r rules) addrs(subnet netip.Prefix, usual netip.Addr) []netip.Addr {
	all := []netip.Addr{usual}
	for _, rule := range r {
		for _, part := range []netip.Prefix{rule.From, rule.To} {
			if part.Bits() <= subnet.Bits() || !subnet.Contains(part.Addr()) || part.Contains(usual) || len(all) > manyFindings {
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

// nodeAddrs are the InternalIPs that this host has: it can send nothing from others.
func (p *Patient) nodeAddrs() []netip.Addr {
	if p.Report == nil {
		return nil
	}
	var all []netip.Addr
	for _, addr := range p.Report.Host.Addresses {
		if slices.ContainsFunc(p.Host.Links, func(l topology.Link) bool {
			return slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool { return a.Addr() == addr })
		}) {
			all = append(all, addr)
		}
	}
	return all
}

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// rangeOf is the range of pods around a subnet, as far as it is known, so that one rule does for all.
func (p *Patient) rangeOf(subnet netip.Prefix) netip.Prefix {
	if p.Report != nil {
		for _, c := range p.Report.Host.ClusterCIDRs {
			if c.Overlaps(subnet) {
				return c
			}
		}
	}
	if subnet.IsSingleIP() {
		for _, s := range p.ownSubnets() {
			if s.Contains(subnet.Addr()) {
				return s
			}
		}
	}
	return subnet
}

// ruleCure has the main table asked before the first rule that leads to another one.
func (p *Patient) ruleCure(w way) string {
	cure := "find who makes the rule, and have it leave pods' packets to the main table: `ip " + familyOption(w.to) + "rule`"
	rules, err := p.Kernel.Rules(w.to.Is4())
	if err != nil {
		return cure
	}
	priority := mainPriority
	if len(rules) > 0 {
		priority = min(priority, rules[0].Priority)
	}
	if priority > 1 {
		cure += fmt.Sprintf("; until then: `ip %srule add to %s lookup main priority %d`", familyOption(w.to), w.dst, priority-1)
	}
	return cure
}

// mainPriority is that of the rule which leads to the main table (fib_default_rules_init of
// net/ipv4/fib_rules.c).
const mainPriority = 32766

func familyOption(a netip.Addr) string {
	if a.Is4() {
		return ""
	}
	return "-6 "
}

// manyFindings of one kind say no more than a few do.
const manyFindings = 8

// takenByMain tells routes to which foreign-routes has something to say.
func (p *Patient) takenByMain(ours topology.Route) bool {
	return slices.ContainsFunc(p.Host.Routes, func(r topology.Route) bool {
		return r.Dst.Bits() >= ours.Dst.Bits() && ours.Dst.Overlaps(r.Dst)
	})
}

// podsOf gives the device and addresses that packets of our own pods come in with; the device is
// empty where there are no pods, or where foreign-routes has something to say of them.
func (p *Patient) podsOf(is4 bool, rules rules) (string, []netip.Addr) {
	if p.Report == nil || p.State.Bridge == "" {
		return "", []netip.Addr{{}}
	}
	for _, s := range p.Report.Host.Subnets {
		if s.Addr().Is4() == is4 && slices.ContainsFunc(p.State.Addresses, func(a topology.Address) bool { return s.Contains(a.Prefix.Addr()) }) {
			pods := slices.DeleteFunc(rules.addrs(s, s.Addr().Next().Next()), func(pod netip.Addr) bool {
				return slices.ContainsFunc(p.Host.Routes, func(r topology.Route) bool { return r.Dst.Bits() > s.Bits() && r.Dst.Contains(pod) })
			})
			if len(pods) > 0 {
				return p.State.Bridge, pods
			}
		}
	}
	return "", []netip.Addr{{}}
}

// reversePath looks for links that drop what comes from peers' pods, because the
// answer would leave by another link (strict mode of RFC 3704, rp_filter of
// ip-sysctl.rst: the greater of all's and the device's counts).
func reversePath(_ context.Context, p *Patient) []problem.Problem {
	if p.Report == nil {
		return Skip("the agent does not answer, so which links are uplinks is not known", "see why: plainroute status")
	}
	strict := map[string]string{}
	for _, u := range p.Report.Host.Uplinks {
		if path, ok := p.strict(u.Name); ok && p.bears4(u.Name) {
			strict[u.Name] = path
		}
	}
	for _, r := range p.State.Routes {
		if r.Metric != topology.MetricPeer || !r.Dst.Addr().Is4() || strict[r.Dev] != "" {
			continue
		}
		for _, dev := range slices.Sorted(maps.Keys(strict)) {
			return []problem.Problem{Fail("what comes from peers' pods by "+dev+" is dropped, because answers leave by "+r.Dev,
				fmt.Sprintf("%s=1, and the route is %s", strict[dev], r), "loosen it: `sysctl -w net/ipv4/conf/"+dev+"/rp_filter=2`")}
		}
	}
	return nil
}

// bears4 tells whether a link has an InternalIP of IPv4, to which peers send what is for
// the pods.
func (p *Patient) bears4(dev string) bool {
	return slices.ContainsFunc(p.Host.Links, func(l topology.Link) bool {
		return l.Name == dev && slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool {
			return a.Addr().Is4() && slices.Contains(p.Report.Host.Addresses, a.Addr())
		})
	})
}

// strict tells whether a device checks sources strictly, and by which setting.
func (p *Patient) strict(dev string) (string, bool) {
	worst, at := 0, ""
	for _, name := range []string{"all", dev} {
		path := topology.ConfSysctl(4, name, "rp_filter")
		value, err := p.Setting(path)
		if n, e := strconv.Atoi(value); err == nil && e == nil && n > worst {
			worst, at = n, path
		}
	}
	return at, worst == 1
}
