package plan

import (
	"cmp"
	"reflect"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Diff computes the Changes from actual to desired. Diff(s, s) is empty. Both States' lists must be
// sorted, as Desired and Observe return them.
func Diff(desired, actual topology.State) Changes {
	actual = withoutLost(desired, actual)
	var c Changes
	for _, diff := range diffs {
		c = append(c, diff(desired, actual)...)
	}
	c.sort()
	return c
}

// diffs has one function for each kind of Object.
var diffs = []func(desired, actual topology.State) Changes{diffSysctls, diffLinks, diffTunnels, diffAddresses, diffNeighbors, diffFDB, diffTable, diffRoutes, diffStrayRoutes, diffConfig}

// order is the order of application: what others need comes first, what others no longer need comes
// last, and the CNI config, because of which the kubelet sends pods, at the very end.
var order = []Change{
	{Add, Bridge{}}, // before the settings, some of which are its own
	{Add, Table{}},  // before the tunnels that it filters
	{Replace, Table{}},
	{Add, Sets{}}, // a NAT binding outlives the rule that made it, so a destination is in the sets before its route is there
	{Add, Tunnel{}},
	{Replace, Tunnel{}},
	{Replace, MTU{}},    // IPv6 leaves a device whose MTU is too small, and its settings go with it
	{Replace, Sysctl{}}, // before the bridge is up
	{Replace, Device{}},
	{Add, Address{}},
	{Add, Neighbor{}}, // and FDB entries, before the routes that need them
	{Replace, Neighbor{}},
	{Add, FDBEntry{}},
	{Replace, FDBEntry{}},
	{Add, Route{}},
	{Replace, Route{}},
	{Delete, Route{}},
	{Delete, StrayRoute{}}, // after those that take their place are there
	{Delete, FDBEntry{}},
	{Delete, Neighbor{}},
	{Delete, Address{}},
	{Delete, Tunnel{}},
	{Delete, Bridge{}}, // before the table, which names it for the next cleanup after an interrupted one
	{Delete, Sets{}},   // and until its route is deleted
	{Delete, Table{}},
	{Add, Config{}},
	{Replace, Config{}},
	{Delete, Config{}},
}

type step struct {
	op     Op
	object reflect.Type
}

// Kinds returns those of all Objects, each once, in the order of application.
func Kinds() []Kind {
	var kinds []Kind
	for _, c := range order {
		if !slices.Contains(kinds, c.Kind()) {
			kinds = append(kinds, c.Kind())
		}
	}
	return kinds
}

var ranks = rankSteps()

func rankSteps() map[step]int {
	all := make(map[step]int, len(order))
	for i, c := range order {
		all[step{c.Op, reflect.TypeOf(c.Object)}] = i
	}
	return all
}

func (c Change) rank() int { return ranks[step{c.Op, reflect.TypeOf(c.Object)}] }

// BeforeTunnels splits the Changes into those before any change of a tunnel, and the rest.
func (c Changes) BeforeTunnels() (before, rest Changes) { return c.split(Change{Add, Tunnel{}}.rank()) }

// BeforeRoutes splits the Changes into those before any change of a route, and the rest.
func (c Changes) BeforeRoutes() (before, rest Changes) { return c.split(Change{Add, Route{}}.rank()) }

func (c Changes) split(first int) (before, rest Changes) {
	n := slices.IndexFunc(c, func(x Change) bool { return x.rank() >= first })
	if n < 0 {
		return c, nil
	}
	return c[:n], c[n:]
}

// sort puts Changes into the order of application. It is stable within a step.
func (c Changes) sort() {
	slices.SortStableFunc(c, func(a, b Change) int { return cmp.Compare(a.rank(), b.rank()) })
}
