package topology

import (
	"fmt"
	"net/netip"
	"slices"
)

// conflicts reports foreign routes that the kernel prefers to ours, or that have
// our very key. Ours stand by at their own metric, and carry traffic the instant
// the foreign one goes.
func (b *builder) conflicts() {
	slices.SortFunc(b.desired.Routes, Route.Compare)
	for _, foreign := range b.host.Routes {
		if foreign.Dev == b.opts.Bridge && b.lived(foreign.Dst) {
			continue
		}
		i, ok := slices.BinarySearchFunc(b.desired.Routes, foreign, func(r, foreign Route) int { return ComparePrefix(r.Dst, foreign.Dst) })
		if !ok || foreign.TOS == 0 && foreign.Metric > b.desired.Routes[i].Metric {
			continue
		}
		ours := b.desired.Routes[i]
		verb := "the kernel prefers %q, which is not ours, to %q; remove it if nothing needs it"
		if foreign.TOS == 0 && foreign.Metric == ours.Metric {
			verb = "%q, which is not ours, has the metric of %q; remove it, or give it another"
			b.standBy(i)
		}
		b.report(Problem{Node: b.holder(ours), Subnet: ours.Dst, Reason: RouteConflict, Own: ours.Metric == MetricOwn, Detail: fmt.Sprintf(verb, foreign, ours)})
	}
}

// lived tells whether pods of this host live, or lived, on a subnet: the bridge's
// own route to it is as it should be.
func (b *builder) lived(p netip.Prefix) bool {
	return slices.Contains(b.subnets, p) || slices.Contains(b.former, p) || len(b.subnets) == 0
}

// standBy settles route i, whose key a foreign one has too: where ours is in place
// it stays; else it is not asked for, since an addition would be refused, and a
// replacement takes the first in the kernel's list, whosever that is (fib_table_insert
// of net/ipv4/fib_trie.c).
func (b *builder) standBy(i int) {
	want := &b.desired.Routes[i]
	if at, ok := slices.BinarySearchFunc(b.actual.Routes, *want, Route.Compare); ok {
		have := b.actual.Routes[at]
		want.Shared = have.Shared
		if *want == have {
			return
		}
	}
	b.desired.Routes = slices.Delete(b.desired.Routes, i, i+1)
}

// holder returns the Node that a route of ours leads to.
func (b *builder) holder(r Route) string {
	i, ok := slices.BinarySearchFunc(b.claims, r, func(c claim, r Route) int { return ComparePrefix(c.subnet, r.Dst) })
	if !ok {
		return b.opts.NodeName
	}
	return b.claims[i].node.Name
}
