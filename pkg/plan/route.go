package plan

import (
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Route is a route of ours: to a peer's pod subnet, or the unreachable one to our own.
type Route struct{ topology.Route }

func (r Route) kind() Kind { return KindRoute }

// name distinguishes the unreachable route to our own subnet from a peer's to the same subnet.
func (r Route) name() string {
	if r.Metric == topology.MetricOwn {
		return string(topology.Unreachable) + " " + r.Dst.String()
	}
	return r.Dst.String()
}

func (r Route) command(op Op) string { return "ip route " + string(op) + " " + r.Route.String() }

// same reports whether both States have the same route of its key, or none.
func (r Route) same(before, desired topology.State) bool {
	i, was := slices.BinarySearchFunc(before.Routes, r.Route, topology.Route.Compare)
	j, is := slices.BinarySearchFunc(desired.Routes, r.Route, topology.Route.Compare)
	return was == is && (!is || before.Routes[i] == desired.Routes[j])
}

func (r Route) keep(s *topology.State) { s.Routes = append(s.Routes, r.Route) }

// diffRoutes replaces no shared route, because that would delete the other program's next hop. Desired
// keeps it as it is if it has been read together with the foreign next hop, which may have come since.
func diffRoutes(desired, actual topology.State) Changes {
	want, have := differing(desired.Routes, actual.Routes) // here, where == is not generic: there are thousands
	c := diffList(want, have, topology.Route.Compare, func(r topology.Route) Object { return Route{r} })
	if !slices.ContainsFunc(have, func(r topology.Route) bool { return r.Shared }) {
		return c
	}
	return c.Filter(func(x Change) bool {
		r, _ := x.Object.(Route)
		i, found := slices.BinarySearchFunc(have, r.Route, topology.Route.Compare)
		return x.Op != Replace || !found || !have[i].Shared
	})
}
