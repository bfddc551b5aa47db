package controllers

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// The triggers of a change: the start of the agent, a change of the Nodes, a change of this host, or
// that another process had reverted it.
const (
	triggerStart  = "start"
	triggerNode   = "node"
	triggerHost   = "host"
	triggerRepair = "repair"
)

// A ledger keeps, from pass to pass, the desired state, the changes that are left, and their triggers.
type ledger struct {
	wanted   *topology.State     // the desired state of the last pass that read this host; nil: none has
	left     plan.Changes        // the changes that that pass did not make
	triggers map[plan.Key]string // of the changes that are left, without those that were reverted
	moved    bool                // the Nodes have changed since the last complete pass
	concerns []netip.Prefix      // the ranges in which foreign routes can matter to the Nodes

	incremental topology.Incremental
	audited     time.Time // when incremental was compared with a full computation
}

// An entry is what one pass adds to the ledger.
type entry struct {
	nodesChanged, saw bool // saw: the pass could read this host
	complete, held    bool // complete: nothing failed; held: removals wait
	wanted            topology.State
	done, left        plan.Changes // left: to do
}

// An outcome is what the ledger derives from an entry.
type outcome struct {
	trigger  string // of all changes that triggers does not list
	triggers map[plan.Key]string
	repairs  []plan.Key // changes that an earlier pass had made, and another process reverted
	left     plan.Changes
}

// triggerOf returns the trigger of one change.
func (o outcome) triggerOf(k plan.Key) string { return cmp.Or(o.triggers[k], o.trigger) }

// Record adds a pass. A change that an earlier pass failed to make is not a repair: it keeps its first
// trigger. If both the Nodes and this host have changed, the Nodes are the trigger.
func (l *ledger) Record(e entry) outcome {
	l.moved = l.moved || e.nodesChanged
	a := outcome{trigger: triggerHost, left: l.left}
	switch {
	case l.wanted == nil:
		a.trigger = triggerStart
	case l.moved:
		a.trigger = triggerNode
	}
	if e.saw {
		l.enter(e, &a)
	}
	if e.complete {
		l.moved = e.held
	}
	return a
}

func (l *ledger) enter(e entry, a *outcome) {
	a.left = e.left
	a.triggers = make(map[plan.Key]string, len(l.triggers))
	undone := map[plan.Key]bool{} // by another process, and not repaired yet
	if l.wanted != nil {
		waited := func(k plan.Key) bool { return l.triggers[k] != "" }
		a.repairs = slices.DeleteFunc(e.done.Repairs(*l.wanted, e.wanted), waited)
		for _, k := range a.left.Repairs(*l.wanted, e.wanted) {
			undone[k] = true
		}
	}
	maps.Copy(a.triggers, l.triggers)
	for _, k := range a.repairs {
		a.triggers[k] = triggerRepair
	}
	late := map[plan.Key]string{}
	for _, k := range a.left.Keys() {
		switch first := l.triggers[k]; {
		case first != "":
			late[k] = first
		case !undone[k]:
			late[k] = a.trigger
		}
	}
	l.wanted, l.left, l.triggers = &e.wanted, a.left, late
}
