package controllers

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	// A fault that is gone within quietTime heals by itself, and one that is back within
	// it was not gone. One that a new node has while it joins gets joinTime.
	quietTime = 10 * time.Second
	joinTime  = time.Minute
	// Faults that all nodes meet at once are told spread out, by so much for each Node:
	// some 80 a second, however large the cluster is, but over no more than spreadMost.
	spreadByNode = 12 * time.Millisecond
	spreadMost   = time.Minute
	// tellAgain is when a fault that lasts is told again: API servers forget an Event
	// after an hour (--event-ttl of kube-apiserver).
	tellAgain = 30 * time.Minute
	// tellLater bounds how often one Reason is told when its words change or it comes
	// and goes.
	tellLater = 10 * time.Minute
	// firstDelay is how long to wait after an Event that could not be told; it doubles
	// up to tellAgain.
	firstDelay = 10 * time.Second
	// A node tells so many Events at once, and then one in a while.
	eventsAtOnce = 10
	eventEvery   = 2 * time.Minute
)

// An agenda decides which faults of this node are told as Events, and when. It knows
// what is and what was told, and keeps no list of what is to be told: if that takes
// long, what is told in the end is what is true then.
type agenda struct {
	tales  map[topology.Reason]*tale
	budget *rate.Limiter
	random func() float64 // between 0 and 1
}

// A tale is what becomes of one fault.
type tale struct {
	note  string    // what is wrong, while something is
	here  bool      // it is there, or is not gone for quietTime yet
	gone  time.Time // since when it is not there, zero while it is
	due   time.Time // when to tell it, if it is still there
	told  string    // the note that was told, and not yet that it is over
	at    time.Time // when anything was last told of it
	fails int       // how often it could not be told since
	// count is how often the Event that says counted was told, as far as is known.
	count   int32
	counted string
}

func newAgenda(random func() float64) *agenda {
	return &agenda{
		tales:  map[topology.Reason]*tale{},
		budget: rate.NewLimiter(rate.Every(eventEvery), eventsAtOnce),
		random: random,
	}
}

// joining are the Reasons that a node has for a while until it has joined its cluster.
var joining = []topology.Reason{topology.NodeMissing, topology.PodCIDRMissing, topology.AddressMissing, topology.APIUnavailable}

// look takes up how things are: the faults of this node by their Reasons, and whether
// it is ready, in a cluster of so many Nodes; 0: nobody knows how many.
func (a *agenda) look(now time.Time, faults map[topology.Reason]string, ready bool, nodes int) {
	for reason, note := range faults {
		patience := quietTime
		if slices.Contains(joining, reason) {
			patience = joinTime
		}
		a.meet(now, reason, note, patience+a.spread(nodes))
	}
	var over []string
	settled := true
	for reason, t := range a.tales {
		if reason == topology.EventReady {
			continue
		}
		if _, still := faults[reason]; !still && t.gone.IsZero() {
			t.gone = now
		}
		if !t.gone.IsZero() && now.Sub(t.gone) >= quietTime {
			t.here = false
		}
		settled = settled && (t.gone.IsZero() || !t.here)
		if !t.here && t.told != "" {
			over = append(over, string(reason))
		}
	}
	slices.Sort(over)
	a.lookReady(now, over, ready && settled, nodes)
}

// lookReady has it told that this node is well again, once what was told is over.
func (a *agenda) lookReady(now time.Time, over []string, ready bool, nodes int) {
	if ready && len(over) > 0 {
		a.meet(now, topology.EventReady, "this node's pods are served as they should be again; over: "+strings.Join(over, ", "), a.spread(nodes))
		return
	}
	if t := a.tales[topology.EventReady]; t != nil {
		t.here = false
	}
}

// meet takes up a fault that is there.
func (a *agenda) meet(now time.Time, reason topology.Reason, note string, patience time.Duration) {
	t := a.tales[reason]
	if t == nil {
		t = &tale{}
		a.tales[reason] = t
	}
	if !t.here {
		t.here, t.fails, t.due = true, 0, now.Add(patience)
		switch {
		case t.told != "": // that it was over is not told yet
			t.due = t.at.Add(tellAgain)
		case !t.at.IsZero():
			t.due = latest(t.due, t.at.Add(tellLater))
		}
	}
	if t.told != "" && t.told != note {
		t.due = earliest(t.due, latest(now, t.at.Add(tellLater)))
	}
	t.note, t.gone = note, time.Time{}
}

func (a *agenda) spread(nodes int) time.Duration {
	most := min(time.Duration(nodes)*spreadByNode, spreadMost)
	if nodes == 0 {
		most = spreadMost
	}
	return time.Duration(a.random() * float64(most))
}

// next returns a Reason to be told now, and else, if there will be any, how long to
// wait before looking again.
func (a *agenda) next(now time.Time) (reason topology.Reason, wait time.Duration) {
	for r, t := range a.tales {
		if !t.here {
			continue
		}
		left := t.due.Sub(now)
		switch {
		case !t.gone.IsZero(): // or nearly so
			wait = soonest(wait, quietTime-now.Sub(t.gone))
		case left > 0:
			wait = soonest(wait, left)
		case a.budget.TokensAt(now) < 1:
			wait = soonest(wait, eventEvery)
		default:
			reason = min(cmp.Or(reason, r), r)
		}
	}
	return reason, wait
}

// done takes up that a Reason was told, or could not be.
func (a *agenda) done(now time.Time, reason topology.Reason, err error) {
	a.budget.AllowN(now, 1)
	t := a.tales[reason]
	t.at = now
	if err != nil {
		delay := min(firstDelay<<min(t.fails, 10), tellAgain)
		t.fails++
		t.due = now.Add(delay + time.Duration(a.random()*float64(delay)))
		return
	}
	t.fails, t.told, t.due = 0, t.note, now.Add(tellAgain)
	if reason != topology.EventReady {
		return
	}
	t.told = ""
	for _, other := range a.tales {
		if !other.here {
			other.told = ""
		}
	}
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
