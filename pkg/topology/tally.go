package topology

import "maps"

// A tally counts peers of one family by what settings of this host depend on.
type tally struct {
	neighbors int            // with an entry of the neighbor table of their own
	devs      map[string]int // with a route, by its device
}

// tallied counts the peers that have some claims and routes.
func tallied(claims []*claim, routes []*Route) (all byFamily[tally]) {
	all.v4.devs, all.v6.devs = map[string]int{}, map[string]int{}
	for _, c := range claims {
		if c.isNeighbor() {
			all.of(c.subnet.Addr().Is4()).neighbors++
		}
	}
	for _, r := range routes {
		if r.Dev != "" {
			all.of(r.Dst.Addr().Is4()).devs[r.Dev]++
		}
	}
	return all
}

// plus returns the sum of a tally and n times another one.
func (t tally) plus(n int, o tally) tally {
	sum := tally{t.neighbors + n*o.neighbors, maps.Clone(o.devs)}
	for dev := range sum.devs {
		sum.devs[dev] *= n
	}
	for dev, routes := range t.devs {
		sum.devs[dev] += routes
	}
	maps.DeleteFunc(sum.devs, func(_ string, routes int) bool { return routes == 0 })
	return sum
}

// add adds n times the tallies of others.
func (b *builder) add(n int, others byFamily[tally]) {
	b.tallies.v4, b.tallies.v6 = b.tallies.v4.plus(n, others.v4), b.tallies.v6.plus(n, others.v6)
}
