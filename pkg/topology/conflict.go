package topology

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// conflicts reports foreign routes that the kernel prefers to ours, or that have our key. Ours stay
// at their own metric, and carry the packets as soon as the foreign one is gone.
func (b *builder) conflicts() {
	slices.SortFunc(b.desired.Routes, Route.Compare)
	parts, moved := b.partConflicts(), false
	for _, foreign := range b.host.Routes {
		if foreign.Dev == b.opts.Bridge && (len(b.subnets) == 0 || slices.Contains(b.subnets, foreign.Dst) || slices.Contains(b.former, foreign.Dst)) {
			continue // the bridge's own route to a subnet that pods use, or may use
		}
		i, ok := slices.BinarySearchFunc(b.desired.Routes, foreign, func(r, foreign Route) int { return ComparePrefix(r.Dst, foreign.Dst) })
		if !ok {
			parts.check(b, foreign)
		}
		if !ok || foreign.TOS == 0 && foreign.Metric > b.desired.Routes[i].Metric || foreign.Dead && foreign.Metric != b.desired.Routes[i].Metric {
			continue
		}
		ours := b.desired.Routes[i]
		verb := "the kernel prefers %q, which is not ours, to %q; remove it if nothing needs it"
		if foreign.TOS == 0 && foreign.Metric == ours.Metric {
			verb = "%q, which is not ours, has the metric of %q; remove it, or give it another"
			moved = b.yieldKey(i) || moved
		}
		b.routeConflict(ours, fmt.Sprintf(verb, foreign, ours))
	}
	if moved {
		b.hops = b.nextHops()
	}
}

// partConflicts finds foreign routes to a part of a pod subnet, which the kernel prefers to ours at
// any metric. In our own subnet only those matter that lead nowhere or off this host, such as
// Calico's leftovers: other networks have a route to each of their pods.
type partConflicts struct {
	lengths  byFamily[[]int]       // of our routes, usually one or two in a family
	reported map[netip.Prefix]bool // one route for each subnet is reported, because there may be one for each pod
	uplinks  map[string]bool
}

func (b *builder) partConflicts() *partConflicts {
	p := &partConflicts{reported: map[netip.Prefix]bool{}, uplinks: uplinksOf(b.host, b.own)}
	for _, r := range b.desired.Routes {
		if lengths := p.lengths.of(r.Dst.Addr().Is4()); !slices.Contains(*lengths, r.Dst.Bits()) {
			*lengths = append(*lengths, r.Dst.Bits())
		}
	}
	return p
}

func (p *partConflicts) check(b *builder, foreign Route) {
	for _, bits := range *p.lengths.of(foreign.Dst.Addr().Is4()) {
		whole, err := foreign.Dst.Addr().Prefix(bits)
		if err != nil || bits >= foreign.Dst.Bits() || p.reported[whole] {
			continue
		}
		i, ok := slices.BinarySearchFunc(b.desired.Routes, whole, func(r Route, p netip.Prefix) int { return ComparePrefix(r.Dst, p) })
		if !ok || b.desired.Routes[i].Metric == MetricOwn && !foreign.LeavesOwnSubnet(b.opts.Bridge, p.uplinks) {
			continue
		}
		p.reported[whole] = true
		ours := b.desired.Routes[i]
		detail := fmt.Sprintf("the kernel prefers %q, which is not ours, to %q for a part of it; remove it if nothing needs it", foreign, ours)
		if ours.Metric == MetricOwn {
			where := "off this node"
			if foreign.LeadsNowhere() {
				where = "nowhere"
			}
			detail = fmt.Sprintf("%q, which is not ours, leads %s, so pods with addresses in it are cut off; remove it if nothing needs it", foreign, where)
		}
		b.routeConflict(ours, detail)
	}
}

// yieldKey handles route i, whose key a foreign route has as well. If ours exists and leads to its
// Node, it stays as it is. Otherwise it is not desired, because an addition would be refused, and a
// replacement hits the first in the kernel's list, which may be foreign (fib_table_insert of
// net/ipv4/fib_trie.c). It reports whether the claim's next hop changed.
func (b *builder) yieldKey(i int) (moved bool) {
	want := &b.desired.Routes[i]
	if at, ok := slices.BinarySearchFunc(b.actual.Routes, *want, Route.Compare); ok {
		have, c := b.actual.Routes[at], b.claimTo(want.Dst)
		if have.Type == want.Type && (have.Via == want.Via || c != nil && slices.Contains(c.node.Addrs, have.Via)) {
			if *want = have; c != nil {
				moved, c.addr, c.dev = c.addr != have.Via, have.Via, have.Dev
			}
			return moved
		}
	}
	b.desired.Routes = slices.Delete(b.desired.Routes, i, i+1)
	return false
}

func (b *builder) claimTo(subnet netip.Prefix) *claim {
	i, ok := slices.BinarySearchFunc(b.claims, subnet, func(c claim, p netip.Prefix) int { return ComparePrefix(c.subnet, p) })
	if !ok {
		return nil
	}
	return &b.claims[i]
}

func (b *builder) routeConflict(ours Route, detail string) {
	owner := b.opts.NodeName
	if c := b.claimTo(ours.Dst); c != nil {
		owner = c.node.Name
	}
	b.report(problemOf(owner, ours.Dst, problem.RouteConflict, "%s", detail).Blocking(ours.Metric == MetricOwn))
}
