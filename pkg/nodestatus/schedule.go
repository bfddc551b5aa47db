package nodestatus

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/plainroute/plainroute/pkg/idle"
	"github.com/plainroute/plainroute/pkg/problem"
)

const (
	// A problem is written once it has lasted for settleTime, and is over once it has been
	// away for as long. A problem of a node that joins its cluster gets joinTime.
	settleTime = 10 * time.Second
	joinTime   = time.Minute
	// The Events of all nodes about one problem are spread by jitterPerNode for each Node,
	// which is some 80 a second in a cluster of any size, but over maxJitter at most.
	jitterPerNode = 12 * time.Millisecond
	maxJitter     = time.Minute
	// repeatInterval is when a problem that lasts is written again: API servers delete an
	// Event after an hour (--event-ttl of kube-apiserver).
	repeatInterval = 30 * time.Minute
	// changeInterval bounds how often one Reason is written if its note changes, or if it
	// comes and goes.
	changeInterval = 10 * time.Minute
	// minRetryDelay is the wait after an Event that could not be written; it doubles up to
	// repeatInterval.
	minRetryDelay = 10 * time.Second
	// A node writes eventBurst Events at once, and then one every eventInterval.
	eventBurst    = 10
	eventInterval = 2 * time.Minute
)

// A schedule decides which problems of this node are written as Events, and when. It has no queue:
// an Event that is late has the note of its time.
type schedule struct {
	states map[problem.Reason]*eventState
	budget *rate.Limiter
	random func() float64 // between 0 and 1
}

// An eventState is what a schedule keeps of one Reason.
type eventState struct {
	note    string    // the problem, while there is one
	active  bool      // there is one, or it has been away for less than settleTime
	gone    time.Time // since when it has been away; zero: it is there
	due     time.Time // when to write it, if it is still there
	written string    // the note written last; empty once its end is written too
	at      time.Time // when anything about it was written last
	fails   int       // failed attempts since
	count   int32     // the series count of the Event with the note counted, as far as known
	counted string
}

func newSchedule(random func() float64) *schedule {
	budget := rate.NewLimiter(rate.Every(eventInterval), eventBurst)
	return &schedule{states: map[problem.Reason]*eventState{}, budget: budget, random: random}
}

// joining are the Reasons that a node has for a while when it joins its cluster.
var joining = []problem.Reason{problem.NodeMissing, problem.PodCIDRMissing, problem.AddressMissing, problem.APIUnavailable}

// update takes the current problems of this node by Reason, whether it is ready, and the number
// of Nodes in the cluster, 0: unknown.
func (s *schedule) update(now time.Time, problems map[problem.Reason]string, ready bool, nodes int) {
	for reason, note := range problems {
		settle := settleTime
		if slices.Contains(joining, reason) {
			settle = joinTime
		}
		s.activate(now, reason, note, settle+s.jitter(nodes))
	}
	var over []string
	settled := true
	for reason, e := range s.states {
		if reason == problem.PodNetworkReady {
			continue
		}
		if _, still := problems[reason]; !still && e.gone.IsZero() {
			e.gone = now
		}
		if !e.gone.IsZero() && now.Sub(e.gone) >= settleTime {
			e.active = false
		}
		settled = settled && (e.gone.IsZero() || !e.active)
		if !e.active && e.written != "" {
			over = append(over, string(reason))
		}
	}
	slices.Sort(over)
	s.updateReady(now, over, ready && settled, nodes)
}

// updateReady schedules the Event that the problems that were written are over.
func (s *schedule) updateReady(now time.Time, over []string, ready bool, nodes int) {
	if ready && len(over) > 0 {
		s.activate(now, problem.PodNetworkReady, "this node serves its pods again; over: "+strings.Join(over, ", "), s.jitter(nodes))
		return
	}
	if e := s.states[problem.PodNetworkReady]; e != nil {
		e.active = false
	}
}

// activate takes a Reason that is there, to be written after the delay if it is new.
func (s *schedule) activate(now time.Time, reason problem.Reason, note string, delay time.Duration) {
	e := s.states[reason]
	if e == nil {
		e = &eventState{}
		s.states[reason] = e
	}
	if !e.active {
		e.active, e.fails, e.due = true, 0, now.Add(delay)
		switch {
		case e.written != "": // its end is not written yet
			e.due = e.at.Add(repeatInterval)
		case !e.at.IsZero():
			e.due = latest(e.due, e.at.Add(changeInterval))
		}
	}
	if changed := latest(now, e.at.Add(changeInterval)); e.written != "" && e.written != note && changed.Before(e.due) {
		e.due = changed
	}
	e.note, e.gone = note, time.Time{}
}

func (s *schedule) jitter(nodes int) time.Duration {
	most := min(time.Duration(nodes)*jitterPerNode, maxJitter)
	if nodes == 0 {
		most = maxJitter
	}
	return time.Duration(s.random() * float64(most))
}

// next returns a Reason to write now. If there is none, it returns when to call again, 0: after
// the next update.
func (s *schedule) next(now time.Time) (reason problem.Reason, wait time.Duration) {
	for r, e := range s.states {
		if !e.active {
			continue
		}
		left := e.due.Sub(now)
		switch {
		case !e.gone.IsZero():
			wait = idle.Soonest(wait, settleTime-now.Sub(e.gone))
		case left > 0:
			wait = idle.Soonest(wait, left)
		case s.budget.TokensAt(now) < 1:
			wait = idle.Soonest(wait, eventInterval)
		default:
			reason = min(cmp.Or(reason, r), r)
		}
	}
	return reason, wait
}

// done records that a Reason was written, or why it could not be.
func (s *schedule) done(now time.Time, reason problem.Reason, err error) {
	s.budget.AllowN(now, 1)
	e := s.states[reason]
	e.at = now
	if err != nil {
		delay := min(minRetryDelay<<min(e.fails, 10), repeatInterval)
		e.fails++
		e.due = now.Add(delay + time.Duration(s.random()*float64(delay)))
		return
	}
	e.fails, e.written, e.due = 0, e.note, now.Add(repeatInterval)
	if reason != problem.PodNetworkReady {
		return
	}
	e.written = ""
	for _, other := range s.states {
		if !other.active {
			other.written = ""
		}
	}
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }
