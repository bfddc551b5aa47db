package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Route is a route of ours: to a peer's pod subnet, to our own by the bridge, or the unreachable one
// to our own.
type Route struct {
	topology.Route
	Table int // the number of its table; 0: main
}

func (r Route) kind() Kind { return KindRoute }

// name distinguishes the routes to our own subnet from a peer's to the same subnet.
func (r Route) name() string {
	switch r.Metric {
	case topology.MetricOwn:
		return string(topology.Unreachable) + " " + r.Dst.String()
	case topology.MetricBridge:
		return r.Dst.String() + " dev " + r.Dev
	}
	return r.Dst.String()
}

// String returns the route in the syntax of ip-route(8).
func (r Route) String() string {
	if r.Table == 0 {
		return r.Route.String()
	}
	return fmt.Sprintf("%s table %d", r.Route, r.Table)
}

func (r Route) command(op Op) string { return "ip route " + string(op) + " " + r.String() }

// same reports whether both States have the same route of its key, or none.
func (r Route) same(before, desired topology.State) bool {
	was, is := topology.RouteTo(before.Routes, r.Dst, r.Metric), topology.RouteTo(desired.Routes, r.Dst, r.Metric)
	return was == is || was != nil && is != nil && *was == *is
}

func (r Route) keep(s *topology.State) { s.Routes = append(s.Routes, &r.Route) }

// StrayRoute is a route of ours in another table than --table's. It is only deleted, once the routes
// in the right table are there.
type StrayRoute struct{ topology.TableRoute }

func (r StrayRoute) kind() Kind           { return KindRoute }
func (r StrayRoute) name() string         { return r.String() }
func (r StrayRoute) command(op Op) string { return "ip route " + string(op) + " " + r.String() }

func (r StrayRoute) same(before, desired topology.State) bool {
	return sameIn(before.Elsewhere, desired.Elsewhere, r.TableRoute, topology.TableRoute.Compare)
}

// diffRoutes replaces no shared route, because that would delete the other program's next hop. Desired
// keeps it as it is if it has been read together with the foreign next hop, which may have come since.
func diffRoutes(desired, actual topology.State) Changes {
	table := max(desired.RouteTable, actual.RouteTable) // one of them may be empty
	want, have := differing(desired.Routes, actual.Routes, topology.SameRoute)
	c := make(Changes, 0, max(len(want), len(have)))
	change := func(op Op) func(*topology.Route) {
		return func(r *topology.Route) { c = append(c, Change{op, Route{*r, table}}) }
	}
	walk(want, have, topology.CompareRoutes, change(Add), change(Delete), func(want, have *topology.Route) {
		if !topology.SameRoute(want, have) && !have.Shared {
			change(Replace)(want)
		}
	})
	if table != 0 {
		slices.SortStableFunc(c, compareBridgeLast)
	}
	return c
}

func diffStrayRoutes(desired, actual topology.State) Changes {
	_, stray := DiffSorted(desired.Elsewhere, actual.Elsewhere, topology.TableRoute.Compare)
	c := make(Changes, len(stray))
	for i, r := range stray {
		c[i] = Change{Delete, StrayRoute{r}}
	}
	slices.SortStableFunc(c, compareBridgeLast)
	return c
}

// compareBridgeLast puts deletions of routes by the bridge last: until then the unreachable route is
// hidden from packets to pods, and the table is recognized as ours.
func compareBridgeLast(a, b Change) int {
	last := func(c Change) int {
		var r topology.Route
		switch o := c.Object.(type) {
		case Route:
			r = o.Route
		case StrayRoute:
			r = o.Route
		}
		if c.Op == Delete && r.Metric == topology.MetricBridge {
			return 1
		}
		return 0
	}
	return cmp.Compare(last(a), last(b))
}
