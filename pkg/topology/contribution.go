package topology

import (
	"net/netip"
	"slices"
)

// A footprint identifies the contributions of some peers. Its lists are sorted, but for the names.
type footprint struct {
	names   []string
	subnets []netip.Prefix
	addrs   []netip.Addr
}

func newFootprint(nodes []*Node) (f footprint) {
	for _, n := range nodes {
		f.names = append(f.names, n.Name)
		f.subnets = append(f.subnets, n.PodCIDRs...)
		f.addrs = append(f.addrs, n.Addrs...)
	}
	slices.SortFunc(f.subnets, ComparePrefix)
	slices.SortFunc(f.addrs, netip.Addr.Compare)
	f.subnets, f.addrs = slices.Compact(f.subnets), slices.Compact(f.addrs)
	return f
}

// keys returns a State with the keys of all that the peers may contribute to one, but for the
// table.
func (f *footprint) keys() (s State) {
	for _, p := range f.subnets {
		dev := tunnelName(p.Addr().Is4())
		s.Routes, s.granted = append(s.Routes, &Route{Dst: p, Metric: PeerMetric(p)}), append(s.granted, &claim{subnet: p})
		s.Neighbors = append(s.Neighbors, Neighbor{Dev: dev, Addr: TunnelGateway(p)})
		s.FDB = append(s.FDB, FDBEntry{Dev: dev, MAC: TunnelMAC(p)})
	}
	slices.SortFunc(s.Neighbors, Neighbor.Compare)
	slices.SortFunc(s.FDB, FDBEntry.Compare)
	return s
}

func compareClaims(a, b *claim) int { return ComparePrefix(a.subnet, b.subnet) }

// replaced returns a State with the contributions of the footprint's peers from s, and those of the
// others from last. It is not ok if both have an element of one key, or tables with different
// rules.
func (f *footprint) replaced(last, s State, own []netip.Prefix) (State, bool) {
	gone := f.keys()
	for _, p := range own {
		gone.Routes = append(gone.Routes, &Route{Dst: p, Metric: MetricBridge}, &Route{Dst: p, Metric: MetricOwn})
	}
	slices.SortFunc(gone.Routes, CompareRoutes)
	var ok [4]bool
	s.Routes, ok[0] = Splice(last.Routes, gone.Routes, s.Routes, CompareRoutes)
	s.granted, ok[1] = Splice(last.granted, gone.granted, s.granted, compareClaims)
	s.Neighbors, ok[2] = Splice(last.Neighbors, gone.Neighbors, s.Neighbors, Neighbor.Compare)
	s.FDB, ok[3] = Splice(last.FDB, gone.FDB, s.FDB, FDBEntry.Compare)
	if slices.Contains(ok[:], false) || (s.Masquerade == nil) != (last.Masquerade == nil) {
		return s, false
	}
	if s.Masquerade == nil {
		return s, true
	}
	m := *s.Masquerade
	m.Nodes, _ = Splice(last.Masquerade.Nodes, f.addrs, m.Nodes, netip.Addr.Compare)
	m.Endpoints, _ = Splice(last.Masquerade.Endpoints, f.addrs, m.Endpoints, netip.Addr.Compare)
	m.Cluster = f.ranges(last.Masquerade.Cluster, m.Cluster)
	s.Masquerade = &m
	return s, m.SameRules(last.Masquerade)
}

// ranges does the same for disjoint ranges, some of which may not come from peers.
func (f *footprint) ranges(last, some []netip.Prefix) []netip.Prefix {
	var gone []netip.Prefix
	for _, p := range f.subnets {
		gone = append(gone, overlapping(last, p)...)
	}
	gone = slices.Compact(gone)
	covered := func(p netip.Prefix) bool {
		return slices.ContainsFunc(overlapping(last, p), func(q netip.Prefix) bool { return !slices.Contains(gone, q) })
	}
	all, _ := Splice(last, gone, slices.DeleteFunc(slices.Clone(some), covered), ComparePrefix)
	return all
}

// overlapping returns the elements of disjoint, sorted ranges that overlap a prefix.
func overlapping(ranges []netip.Prefix, p netip.Prefix) []netip.Prefix {
	begin, _ := slices.BinarySearchFunc(ranges, p, ComparePrefix)
	if begin > 0 && ranges[begin-1].Overlaps(p) {
		begin--
	}
	end := begin
	for end < len(ranges) && ranges[end].Overlaps(p) {
		end++
	}
	return ranges[begin:end]
}

// Splice returns a sorted list without the elements of some keys, and with others instead. All are
// sorted. It is not ok if the list already has one of the others. If nothing changes, it returns the
// list itself, which may be long.
func Splice[T comparable](sorted, gone, put []T, compare func(T, T) int) (all []T, ok bool) {
	switch {
	case len(sorted)+len(put) == 0:
		return nil, true
	case slices.Equal(elements(sorted, gone, compare), put):
		return sorted, true
	}
	all, ok = make([]T, 0, len(sorted)+len(put)), true
	cut := func(key T) (found bool) {
		i, found := slices.BinarySearchFunc(sorted, key, compare)
		all = append(all, sorted[:i]...)
		if sorted = sorted[i:]; found {
			sorted = sorted[1:]
		}
		return found
	}
	for len(put) > 0 {
		for len(gone) > 0 && compare(gone[0], put[0]) <= 0 {
			cut(gone[0])
			gone = gone[1:]
		}
		ok = !cut(put[0]) && ok
		all = append(all, put[0])
		put = put[1:]
	}
	for _, key := range gone {
		cut(key)
	}
	return append(all, sorted...), ok
}

// elements returns those of a sorted list that have one of some keys.
func elements[T any](sorted, keys []T, compare func(T, T) int) (found []T) {
	for _, key := range keys {
		if i, ok := slices.BinarySearchFunc(sorted, key, compare); ok {
			found = append(found, sorted[i])
		}
	}
	return found
}

// unsettled returns the subnets of the footprint with other routes in the kernel than desired, or
// with other grants than before.
func (f footprint) unsettled(desired, actual State) (all []netip.Prefix) {
	for _, p := range f.subnets {
		want, have := RouteTo(desired.Routes, p, PeerMetric(p)), RouteTo(actual.Routes, p, PeerMetric(p))
		is, was := claimTo(desired.granted, p), claimTo(actual.granted, p)
		if (want == nil) != (have == nil) || want != nil && *want != *have || (is == nil) != (was == nil) || is != nil && !is.sameGrant(was) {
			all = append(all, p)
		}
	}
	return all
}

// sameGrant reports whether two claims to a subnet count as the same for the next computation.
func (c *claim) sameGrant(d *claim) bool {
	return c.node.Name == d.node.Name && c.node.UID == d.node.UID && c.addr == d.addr && c.via == d.via && c.hadRoute == d.hadRoute
}

// changedGrants returns the subnets whose grants differ.
func changedGrants(now, before []*claim) (all []netip.Prefix) {
	eachDifference(now, before, compareClaims, (*claim).sameGrant, func(c *claim) { all = append(all, c.subnet) })
	return all
}

// differences returns the destinations of the routes, and the InternalIPs of the FDB entries, that
// are not the same in two States.
func differences(a, b State) (all []netip.Prefix) {
	eachDifference(a.Routes, b.Routes, CompareRoutes, SameRoute, func(r *Route) { all = append(all, r.Dst) })
	eachDifference(a.FDB, b.FDB, FDBEntry.Compare, func(e, f FDBEntry) bool { return e == f }, func(e FDBEntry) {
		if e.Dst.IsValid() { // else another program's entry, which leads elsewhere
			all = append(all, single(e.Dst))
		}
	})
	return all
}

// eachDifference calls f with each element of two sorted lists that the other one lacks or has
// otherwise.
func eachDifference[T any](a, b []T, compare func(T, T) int, same func(T, T) bool, f func(T)) {
	for len(a) > 0 && len(b) > 0 {
		switch order := compare(a[0], b[0]); {
		case order < 0:
			f(a[0])
			a = a[1:]
		case order > 0:
			f(b[0])
			b = b[1:]
		default:
			if !same(a[0], b[0]) {
				f(a[0])
				f(b[0])
			}
			a, b = a[1:], b[1:]
		}
	}
	for _, x := range slices.Concat(a, b) {
		f(x)
	}
}
