package dataplane

import (
	"context"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Many routes are sent at once, and each answer is matched to its route.
func TestEachRouteGetsItsAnswer(t *testing.T) {
	m := newMachine(t)
	all := nodes(3*perSend + 7)
	m.settle(all[:1])
	m.applyMixed(all)
	m.settle(all)
}

// applyMixed asks for routes of which every third can't be, and one has no device. Each refusal has
// to be that of its own route, and every other route has to exist.
func (m *machine) applyMixed(all []*topology.Node) {
	m.t.Helper()
	c := m.diff(all)
	const bad = 3
	refused := map[string]error{}
	for i, r := range plan.Objects[plan.Route](c, plan.Add) {
		at := slices.Index(c, plan.Change{Op: plan.Add, Object: r})
		switch {
		case i == perSend:
			r.Dev = "nowhere"
			refused[r.Dst.String()] = errNoDevice
		case i%bad == 0 && r.Via.Is4():
			r.Via = r.Dst.Addr() // not a neighbor
			refused[r.Dst.String()] = unix.ENETUNREACH
		}
		c[at].Object = r
	}
	before := len(m.ours())
	err := m.Apply(context.Background(), c)
	if counted := m.countRefused(err, refused); counted != len(refused) {
		m.t.Errorf("%d of %d refusals are reported", counted, len(refused))
	}
	if n, want := len(m.ours()), before+count(c, plan.Add)-len(refused); n != want {
		m.t.Errorf("%d routes of ours, want %d", n, want)
	}
}

// countRefused returns the number of RouteErrors in an error that are as expected.
func (m *machine) countRefused(err error, want map[string]error) int {
	m.t.Helper()
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		n := 0
		for _, e := range joined.Unwrap() {
			n += m.countRefused(e, want)
		}
		return n
	}
	var refused *RouteError
	if !errors.As(err, &refused) || !errors.Is(err, want[refused.Route.Dst.String()]) {
		m.t.Errorf("not expected: %v", err)
		return 0
	}
	return 1
}

// One route of a batch, at whatever place, is refused because it exists already; the others are
// made. One that has gone already counts as deleted.
func TestOneOfManyIsDoneAlready(t *testing.T) {
	m := newMachine(t)
	all := nodes(perSend / 2)
	m.settle(all[:1])
	missing := plan.Objects[plan.Route](m.diff(all), plan.Add)
	for _, i := range []int{0, len(missing) / 2, len(missing) - 1} {
		m.must(errors.Join(m.send(operations[plan.Add], missing[i:i+1])...))
		for n, err := range m.send(operations[plan.Add], missing) {
			if want := n == i; errors.Is(err, unix.EEXIST) != want || (err != nil) != want {
				t.Errorf("with route %d there, adding route %d: %v", i, n, err)
			}
		}
		m.must(errors.Join(m.send(operations[plan.Delete], missing[i:i+1])...))
		m.must(errors.Join(m.send(operations[plan.Delete], missing)...))
		if n := len(m.ours()); n != len(m.observe().Routes) {
			t.Errorf("%d routes are left", n)
		}
	}
	m.settle(all)
}

// Sending many routes allocates no memory for each.
func TestManyRoutesInLittleMemory(t *testing.T) {
	m := newMachine(t)
	all := nodes(perSend / 2)
	m.settle(all)
	routes := plan.Objects[plan.Route](plan.Diff(m.observe(), topology.State{}), plan.Add)
	refused := testing.AllocsPerRun(10, func() { _ = m.send(operations[plan.Replace], routes) })
	if int(refused) >= len(routes)/2 {
		t.Errorf("%v allocations for %d routes", refused, len(routes))
	}
}
