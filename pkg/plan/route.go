package plan

import (
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Route is a route of ours: to a peer's pod subnet, or the unreachable one to our own.
type Route struct{ topology.Route }

// Kind is KindRoute.
func (r Route) Kind() Kind { return KindRoute }

// Name distinguishes the unreachable route to our own subnet from a peer's to the same subnet.
func (r Route) Name() string {
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

func diffRoutes(desired, actual topology.State) Changes {
	want, have := differing(desired.Routes, actual.Routes)
	c := make(Changes, 0, max(len(want), len(have)))
	walk(want, have, topology.Route.Compare,
		func(r topology.Route) { c = append(c, Change{Add, Route{r}}) },
		func(r topology.Route) { c = append(c, Change{Delete, Route{r}}) },
		func(want, have topology.Route) {
			if want != have {
				c = append(c, Change{Replace, Route{want}})
			}
		})
	return c
}
