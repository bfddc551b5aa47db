package controllers

import (
	"maps"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// wanting is a State with the routes of some Changes.
func wanting(changes ...plan.Changes) topology.State {
	var s topology.State
	for _, x := range slices.Concat(changes...) {
		r := x.Object.(plan.Route).Route
		s.Routes = append(s.Routes, &r)
	}
	return s
}

// A posting is a pass, and what the ledger makes of it.
type posting struct {
	name  string
	entry entry
	// triggers are those of the done changes, in their order; repairs and left are counts.
	triggers      []string
	repairs, left int
}

// A late change keeps its first trigger, a change that another process reverted is a repair, and any other change has the trigger of
// its pass.
func TestLedger(t *testing.T) {
	one, two, three := routeTo(2), routeTo(3), routeTo(4)
	both := slices.Concat(one, two)
	for name, passes := range map[string][]posting{
		"all at once": {
			{"the first pass", entry{saw: true, wanted: wanting(both), done: both, complete: true}, []string{triggerStart, triggerStart}, 0, 0},
			{"a Node comes", entry{nodesChanged: true, saw: true, wanted: wanting(both, three), done: three, complete: true}, []string{triggerNode}, 0, 0},
			{"a route is taken away", entry{saw: true, wanted: wanting(both, three), done: one, complete: true}, []string{triggerRepair}, 1, 0},
			{"nothing", entry{saw: true, wanted: wanting(both, three), complete: true}, nil, 0, 0},
			{"this host changes", entry{saw: true, wanted: wanting(both), done: plan.Of(plan.Delete, three[0].Object), complete: true}, []string{triggerHost}, 0, 0},
		},
		"late": {
			{"the first pass can make one", entry{saw: true, wanted: wanting(both), done: one, left: two}, []string{triggerStart}, 0, 1},
			{"the next can't see the host", entry{nodesChanged: true}, nil, 0, 1},
			{"a Node has come meanwhile", entry{saw: true, wanted: wanting(both, three), done: three, left: two}, []string{triggerNode}, 0, 1},
			{"what the first could not make", entry{saw: true, wanted: wanting(both, three), done: two, complete: true}, []string{triggerStart}, 0, 0},
			{"and is taken away later", entry{saw: true, wanted: wanting(both, three), done: two, complete: true}, []string{triggerRepair}, 1, 0},
		},
		"taken away, and refused at first": {
			{"the first pass", entry{saw: true, wanted: wanting(both), done: both, complete: true}, []string{triggerStart, triggerStart}, 0, 0},
			{"it is refused", entry{saw: true, wanted: wanting(both), left: two}, nil, 0, 1},
			{"and then not", entry{nodesChanged: true, saw: true, wanted: wanting(both), done: two, complete: true}, []string{triggerRepair}, 1, 0},
		},
		"taken, and not held": {
			{"the first pass", entry{saw: true, wanted: wanting(both), done: both, left: two}, []string{triggerStart, triggerStart}, 0, 1},
			{"the next", entry{saw: true, wanted: wanting(both), done: two, complete: true}, []string{triggerStart}, 0, 0},
		},
		"Nodes wait": {
			{"the first pass", entry{saw: true, wanted: wanting(one), done: one, complete: true}, []string{triggerStart}, 0, 0},
			{"a Node is gone, and its route is held", entry{nodesChanged: true, saw: true, wanted: wanting(one), complete: true, held: true}, nil, 0, 0},
			{"it is confirmed", entry{saw: true, done: plan.Of(plan.Delete, one[0].Object), complete: true}, []string{triggerNode}, 0, 0},
			{"this host changes", entry{saw: true, wanted: wanting(two), done: two, complete: true}, []string{triggerHost}, 0, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var l ledger
			for _, p := range passes {
				got := l.Record(p.entry)
				var triggers []string
				for _, k := range p.entry.done.Keys() {
					triggers = append(triggers, got.triggerOf(k))
				}
				if !slices.Equal(triggers, p.triggers) || len(got.repairs) != p.repairs || len(got.left) != p.left {
					t.Errorf("%s: triggers are %q, want %q; %d repairs, want %d; %d left, want %d", p.name, triggers, p.triggers, len(got.repairs), p.repairs, len(got.left), p.left)
				}
			}
			if len(l.left) != 0 || len(l.triggers) != 0 {
				t.Errorf("in the end %v are left, for %v", l.left, maps.Clone(l.triggers))
			}
		})
	}
}
