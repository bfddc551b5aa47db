package status

import (
	"maps"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Prometheus counts what the table shows.
func TestCountPeers(t *testing.T) {
	r := example()
	want := map[PeerState]int{}
	for _, p := range r.Report().Peers {
		want[p.State]++
		if !slices.Contains(PeerStates(), p.State) {
			t.Errorf("%q is among no states", p.State)
		}
	}
	if got := r.CountPeers(); !maps.Equal(got, want) || len(want) < 4 {
		t.Errorf("counted %v, and the table has %v", got, want)
	}
	ok := want[OK]
	for _, p := range r.Report().Peers {
		if p.State == OK {
			r.Undone = plan.Of(plan.Add, plan.Route{Route: topology.Route{Dst: p.Subnet, Metric: topology.PeerMetric(p.Subnet)}})
			break
		}
	}
	if got := r.CountPeers(); got[OK] != ok-1 || got[Missing] != want[Missing]+1 {
		t.Errorf("with one route that could not be put back, counted %v after %v", got, want)
	}
}
