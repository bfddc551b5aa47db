package topology

import (
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A footprint is what the contributions of some peers are identified by.
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
	return f
}

// without returns the contributions of all other peers to a State. Elements of the table's sets
// that don't come from peers may be among them.
func (f footprint) without(s State) (kept State) {
	routes, claims := make([]Route, len(f.subnets)), make([]claim, len(f.subnets))
	var neighbors []Neighbor
	var entries []FDBEntry
	for i, p := range f.subnets {
		dev := tunnelName(p.Addr().Is4())
		routes[i], claims[i] = Route{Dst: p, Metric: MetricPeer}, claim{subnet: p}
		neighbors, entries = append(neighbors, Neighbor{Dev: dev, Addr: TunnelGateway(p)}), append(entries, FDBEntry{Dev: dev, MAC: TunnelMAC(p)})
	}
	kept.Routes = slices.DeleteFunc(minus(s.Routes, routes, Route.Compare), func(r Route) bool { return r.Metric == MetricOwn })
	kept.granted = minus(s.granted, claims, compareClaims)
	kept.Neighbors, kept.FDB = minus(s.Neighbors, neighbors, Neighbor.Compare), minus(s.FDB, entries, FDBEntry.Compare)
	if m := s.Masquerade; m != nil {
		kept.Masquerade = &Masquerade{
			Bridge: m.Bridge, Sources: m.Sources, Egress: m.Egress, Tunnels: m.Tunnels,
			Cluster:   slices.DeleteFunc(slices.Clone(m.Cluster), func(p netip.Prefix) bool { return slices.ContainsFunc(f.subnets, p.Overlaps) }),
			Nodes:     minus(m.Nodes, f.addrs, netip.Addr.Compare),
			Endpoints: minus(m.Endpoints, f.addrs, netip.Addr.Compare),
		}
	}
	return kept
}

func compareClaims(a, b claim) int { return ComparePrefix(a.subnet, b.subnet) }

// minus returns a copy of a sorted list, with room for some more, without the elements of the keys.
func minus[T any](sorted, keys []T, compare func(T, T) int) []T {
	all := append(make([]T, 0, len(sorted)+maxChanged), sorted...)
	for _, k := range keys {
		if i, found := slices.BinarySearchFunc(all, k, compare); found {
			all = slices.Delete(all, i, i+1)
		}
	}
	return all
}

// joined adds the contributions of the other peers to a State. It is not ok if both have an element
// of the same key, or if their tables have different rules.
func joined(s, kept State) (State, bool) {
	var ok [4]bool
	s.Routes, ok[0] = plus(kept.Routes, s.Routes, Route.Compare)
	s.granted, ok[1] = plus(kept.granted, s.granted, compareClaims)
	s.Neighbors, ok[2] = plus(kept.Neighbors, s.Neighbors, Neighbor.Compare)
	s.FDB, ok[3] = plus(kept.FDB, s.FDB, FDBEntry.Compare)
	if slices.Contains(ok[:], false) || (s.Masquerade == nil) != (kept.Masquerade == nil) {
		return s, false
	}
	if s.Masquerade == nil {
		return s, true
	}
	m := *s.Masquerade
	m.Nodes, _ = plus(kept.Masquerade.Nodes, m.Nodes, netip.Addr.Compare)
	m.Endpoints, _ = plus(kept.Masquerade.Endpoints, m.Endpoints, netip.Addr.Compare)
	m.Cluster = kept.Masquerade.Cluster
	for _, p := range s.Masquerade.Cluster {
		i, _ := slices.BinarySearchFunc(m.Cluster, p, ComparePrefix)
		if covered := i > 0 && m.Cluster[i-1].Overlaps(p) || i < len(m.Cluster) && m.Cluster[i].Overlaps(p); !covered {
			m.Cluster = slices.Insert(m.Cluster, i, p)
		}
	}
	s.Masquerade = &m
	return s, m.SameRules(kept.Masquerade)
}

// plus adds elements to a sorted list, which it changes. It is not ok if the list has one of them.
func plus[T any](sorted, more []T, compare func(T, T) int) (all []T, ok bool) {
	ok = true
	for _, x := range more {
		i, found := slices.BinarySearchFunc(sorted, x, compare)
		if found {
			ok = false
			continue
		}
		sorted = slices.Insert(sorted, i, x)
	}
	return sorted, ok
}

// unsettled returns the subnets of the footprint with other routes in the kernel than desired, or with other grants
// than before.
func (f footprint) unsettled(desired, actual State) (all []netip.Prefix) {
	for _, p := range f.subnets {
		want, have := routeTo(desired.Routes, p, MetricPeer), routeTo(actual.Routes, p, MetricPeer)
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

// regranted returns the subnets whose grants differ.
func regranted(now, before []claim) (all []netip.Prefix) {
	uncommon(now, before, compareClaims, func(a, b claim) bool { return a.sameGrant(&b) }, func(c claim) { all = append(all, c.subnet) })
	return all
}

// differences returns the destinations of the routes, and the InternalIPs of the FDB entries, that
// are not the same in two States.
func differences(a, b State) (all []netip.Prefix) {
	uncommon(a.Routes, b.Routes, Route.Compare, func(r, s Route) bool { return r == s }, func(r Route) { all = append(all, r.Dst) })
	uncommon(a.FDB, b.FDB, FDBEntry.Compare, func(e, f FDBEntry) bool { return e == f }, func(e FDBEntry) { all = append(all, single(e.Dst)) })
	return all
}

// uncommon calls f with each element of two sorted lists that the other one lacks or has otherwise.
func uncommon[T any](a, b []T, compare func(T, T) int, same func(T, T) bool, f func(T)) {
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

// addDevs adds the devices of routes, each once a family.
func addDevs(devs *byFamily[[]string], routes []Route) {
	for i := range routes {
		dev, of := routes[i].Dev, devs.of(routes[i].Dst.Addr().Is4())
		if dev != "" && !slices.Contains(*of, dev) {
			*of = append(*of, dev)
		}
	}
}

func isMACShared(p problem.Problem) bool { return p.Reason == problem.MACShared }
