package controllers

import (
	"context"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	// manyRoutes is how many changed routes, or Problems of a kind, are worth a log
	// line each.
	manyRoutes = 20
	// What happens to one thing gets so many lines at once, and then one a minute: a
	// kubelet may write its Node as often as it likes.
	linesAtOnce = 10
	lineEvery   = time.Minute
)

// A diary writes the log, and bounds what it says of one thing. The last that
// happened to it is told in the end, with how many lines were left out.
type diary struct {
	now    func() time.Time
	topics map[topic]*story
}

// A topic is a thing: of a Node each Reason is one.
type topic struct{ kind, name string }

// A story is what happens to one thing.
type story struct {
	budget  *rate.Limiter
	left    int // lines left out since the last one that was written
	message string
	words   []any
}

func newDiary(now func() time.Time) *diary {
	return &diary{now: now, topics: map[topic]*story{}}
}

// write says something of a topic, now or later.
func (d *diary) write(logger logr.Logger, about topic, message string, words ...any) {
	s, ok := d.topics[about]
	if !ok {
		s = &story{budget: rate.NewLimiter(rate.Every(lineEvery), linesAtOnce)}
		d.topics[about] = s
	}
	s.message, s.words = message, words
	s.left++
	s.tell(logger, d.now())
}

// tell writes the last line, if there is one and its turn has come.
func (s *story) tell(logger logr.Logger, now time.Time) {
	if s.left == 0 || !s.budget.AllowN(now, 1) {
		return
	}
	if s.left > 1 {
		s.words = append(slices.Clone(s.words), "linesLeftOut", s.left-1)
	}
	logger.Info(s.message, s.words...)
	s.left, s.words = 0, nil
}

// catchUp tells what had to wait, and forgets what is over.
func (d *diary) catchUp(ctx context.Context) {
	now := d.now()
	for about, s := range d.topics {
		s.tell(log.FromContext(ctx), now)
		if s.budget.TokensAt(now) >= linesAtOnce {
			delete(d.topics, about)
		}
	}
}

// wait returns when to catch up, 0: need not.
func (d *diary) wait() time.Duration {
	for _, s := range d.topics {
		if s.left > 0 {
			return lineEvery
		}
	}
	return 0
}

// problems tells those that are in one set and not in the other: of very many of a
// kind, as when a link goes down, how many they are and one of them.
func (d *diary) problems(logger logr.Logger, what string, in, notIn map[topology.Problem]bool) {
	kinds := map[topology.Reason][]topology.Problem{}
	for p := range in {
		if !notIn[p] {
			kinds[p.Reason] = append(kinds[p.Reason], p)
		}
	}
	for reason, problems := range kinds {
		slices.SortFunc(problems, topology.Problem.Compare)
		if n := len(problems); n > manyRoutes {
			d.write(logger, topic{string(reason), "many"}, what, "reason", reason, "count", n, "one", problems[0].String())
			continue
		}
		for _, p := range problems {
			d.write(logger, topic{string(reason), "of " + p.Node}, what,
				"node", p.Node, "reason", p.Reason, "detail", p.Detail, "blocksReadiness", p.Own)
		}
	}
}

// changes logs what was made. Of very many routes it is how many.
func (d *diary) changes(logger logr.Logger, c plan.Changes) {
	if routes := c.Only(plan.KindRoute); len(routes) > manyRoutes {
		counts := map[plan.Op]int{}
		for _, x := range routes {
			counts[x.Op]++
		}
		d.write(logger, topic{"route", "many"}, "Changed routes", "added", counts[plan.Add], "replaced", counts[plan.Replace], "deleted", counts[plan.Delete])
		c = c.Except(plan.KindRoute)
	}
	for _, x := range c {
		if _, sets := x.Object.(plan.Sets); !sets { // which follow the routes
			key := x.Key()
			d.write(logger, topic{string(key.Kind), key.Name}, done(x)+" "+string(key.Kind), key.Kind.Label(), x.Object.String())
		}
	}
}

// done is what was done to an object.
func done(c plan.Change) string {
	kind := c.Kind()
	switch {
	case c.Op == plan.Delete:
		return "Deleted"
	case kind == plan.KindTable, kind == plan.KindCNI:
		return "Wrote"
	case kind == plan.KindSysctl, kind == plan.KindDevice:
		return "Set"
	case c.Op == plan.Replace:
		return "Replaced"
	}
	return "Added"
}
