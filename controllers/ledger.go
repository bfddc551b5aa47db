package controllers

import (
	"cmp"
	"maps"
	"slices"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// The causes of a change: the first pass that was able to make it, news of Nodes, news
// of this host, or that somebody had undone it.
const (
	causeStart  = "start"
	causeNode   = "node"
	causeHost   = "host"
	causeRepair = "repair"
)

// A ledger is the record, from pass to pass, of what was wanted, what of it is left to do, and why.
type ledger struct {
	wanted *topology.State     // by the last pass that saw this host; nil: none has
	left   plan.Changes        // what that pass has not made
	causes map[plan.Key]string // why what is left was asked for; not of what somebody had undone
	moved  bool                // Nodes have changed since a pass last did all that they ask for
}

// An entry is what a pass wanted, and what it made of it.
type entry struct {
	nodesChanged bool
	// saw reports whether the pass could look at this host.
	saw    bool
	wanted topology.State
	done   plan.Changes
	left   plan.Changes // to do since the last look
	// complete reports whether nothing failed, and held whether removals wait.
	complete, held bool
}

// An account is what the ledger makes of an entry.
type account struct {
	// trigger is the cause of what was done, but for what has another.
	trigger string
	causes  map[plan.Key]string
	// repairs had been made before: somebody had undone them.
	repairs []plan.Key
	left    plan.Changes
}

// cause is that of one thing.
func (a account) cause(k plan.Key) string { return cmp.Or(a.causes[k], a.trigger) }

// Record enters a pass. What a pass before could not make was never there, so it is no repair: it is
// made now for the reason that it was asked for then. Where both Nodes and this host have news, the
// Nodes are the cause.
func (l *ledger) Record(e entry) account {
	l.moved = l.moved || e.nodesChanged
	a := account{trigger: causeHost, left: l.left}
	switch {
	case l.wanted == nil:
		a.trigger = causeStart
	case l.moved:
		a.trigger = causeNode
	}
	if e.saw {
		l.enter(e, &a)
	}
	if e.complete {
		l.moved = e.held
	}
	return a
}

func (l *ledger) enter(e entry, a *account) {
	a.left = e.left
	a.causes = make(map[plan.Key]string, len(l.causes))
	undone := map[plan.Key]bool{} // by somebody else, and not put back
	if l.wanted != nil {
		waited := func(k plan.Key) bool { return l.causes[k] != "" }
		a.repairs = slices.DeleteFunc(e.done.Repairs(*l.wanted, e.wanted), waited)
		for _, k := range a.left.Repairs(*l.wanted, e.wanted) {
			undone[k] = true
		}
	}
	maps.Copy(a.causes, l.causes)
	for _, k := range a.repairs {
		a.causes[k] = causeRepair
	}
	late := map[plan.Key]string{}
	for _, k := range a.left.Keys() {
		switch cause := l.causes[k]; {
		case cause != "":
			late[k] = cause
		case !undone[k]:
			late[k] = a.trigger
		}
	}
	l.wanted, l.left, l.causes = &e.wanted, a.left, late
}
