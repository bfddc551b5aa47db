package controllers

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// routeTo is a change that adds a route to the pods of a peer.
func routeTo(i byte) plan.Changes {
	return plan.Of(plan.Add, plan.Route{Route: topology.Route{
		Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, i}), 24), Via: netip.AddrFrom4([4]byte{192, 168, 1, i}), Dev: "eth0",
	}})
}

// positive returns the counters of a family that are not zero, by the values of their labels.
func positive(t *testing.T, registry *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if n := m.GetCounter().GetValue(); n != 0 {
				counts[labelValues(m)] = n
			}
		}
	}
	return counts
}

func labelValues(m *dto.Metric) string {
	all := ""
	for _, l := range m.GetLabel() {
		all += l.GetValue() + " "
	}
	return all
}

// Each change is counted once, by why it was made: a repair as one, what an earlier pass could not make by the cause of
// then, and the rest by that of this pass.
func TestChangesAreCountedByCause(t *testing.T) {
	first, second := routeTo(2), routeTo(3)
	both := first.With(second...)
	keys := both.Keys()
	for name, c := range map[string]struct {
		moved     bool
		repairs   []plan.Key
		postponed map[plan.Key]string
		changes   map[string]float64
		repaired  float64
	}{
		"news of the host":           {false, nil, nil, map[string]float64{"route_add host ": 2}, 0},
		"news of a Node":             {true, nil, nil, map[string]float64{"route_add node ": 2}, 0},
		"repairs alone":              {true, keys, nil, map[string]float64{"route_add repair ": 2}, 2},
		"a repair beside news":       {true, keys[:1], nil, map[string]float64{"route_add repair ": 1, "route_add node ": 1}, 1},
		"late beside news":           {true, nil, map[plan.Key]string{keys[0]: triggerStart}, map[string]float64{"route_add start ": 1, "route_add node ": 1}, 0},
		"late beside a repair":       {true, keys[1:], map[plan.Key]string{keys[0]: triggerHost}, map[string]float64{"route_add host ": 1, "route_add repair ": 1}, 1},
		"late, and not in this pass": {true, nil, map[plan.Key]string{routeTo(9).Keys()[0]: triggerStart}, map[string]float64{"route_add node ": 2}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			l := ledger{wanted: &topology.State{}, moved: c.moved, triggers: c.postponed}
			wanted := topology.State{}
			for _, k := range c.repairs { // asked for before, too
				i := slices.Index(keys, k)
				r := both[i].Object.(plan.Route).Route
				l.wanted.Routes = append(l.wanted.Routes, &r)
			}
			for _, x := range both {
				r := x.Object.(plan.Route).Route
				wanted.Routes = append(wanted.Routes, &r)
			}
			outcome := l.Record(entry{saw: true, wanted: wanted, done: both, complete: true})
			if n := NewMetrics(registry, Build{}, &status.Latest{}, (&memoryNodes{}).Health).applied(both, outcome); n != 2 {
				t.Errorf("counted %d changes", n)
			}
			if got := positive(t, registry, "plainroute_changes_total"); !maps.Equal(got, c.changes) {
				t.Errorf("changes are %v, want %v", got, c.changes)
			}
			if got := positive(t, registry, "plainroute_repairs_total")["route "]; got != c.repaired {
				t.Errorf("repaired are %v, want %v", got, c.repaired)
			}
		})
	}
}
