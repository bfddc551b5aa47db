package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Whoever takes a thing of ours away gets it back at once, some twenty times in a
// row. After that somebody means it, and each repair waits for its turn.
const (
	freeRepairs = 20
	repairEvery = 2 * time.Second
	// contestEnds is how many repairs must be free again before a contest is over.
	contestEnds = 5
	// contestLog is how often a contest is told in the log.
	contestLog = time.Minute
)

// rivals knows what somebody on this host undoes again and again.
type rivals struct {
	now      func() time.Time
	contests map[plan.Key]*contest
	fights   []plan.Key // contests that go on, sorted, as of the last settle
}

// A contest is about one thing.
type contest struct {
	budget *rate.Limiter
	times  int
	since  time.Time // of times
	told   bool
}

func newRivals(now func() time.Time) *rivals {
	return &rivals{now: now, contests: map[plan.Key]*contest{}}
}

// hold leaves out of changes those whose turn has not come.
func (r *rivals) hold(c plan.Changes) plan.Changes {
	if len(r.contests) == 0 {
		return c
	}
	now := r.now()
	return c.Without(func(k plan.Key) bool {
		fight, ok := r.contests[k]
		return ok && fight.budget.TokensAt(now) < 1
	})
}

// repaired notes what had to be made again.
func (r *rivals) repaired(keys []plan.Key) {
	now := r.now()
	for _, k := range keys {
		fight, ok := r.contests[k]
		if !ok {
			fight = &contest{budget: rate.NewLimiter(rate.Every(repairEvery), freeRepairs), since: now}
			r.contests[k] = fight
		}
		fight.budget.AllowN(now, 1)
		fight.times++
	}
}

// settle finds out what is fought over now, and forgets what nobody has touched
// for long.
func (r *rivals) settle() {
	r.fights = nil
	now := r.now()
	for k, fight := range r.contests {
		switch left := fight.budget.TokensAt(now); {
		case left < contestEnds:
			r.fights = append(r.fights, k)
		case left >= freeRepairs:
			delete(r.contests, k)
		}
	}
	slices.SortFunc(r.fights, plan.Key.Compare)
}

// fought tells whether a thing is fought over.
func (r *rivals) fought(k plan.Key) bool {
	_, found := slices.BinarySearchFunc(r.fights, k, plan.Key.Compare)
	return found
}

// few returns the fights that are worth a line each: of very many routes, as when
// something flushes the whole table every few seconds, the first ones.
func (r *rivals) few() []plan.Key {
	routes := 0
	return slices.DeleteFunc(slices.Clone(r.fights), func(k plan.Key) bool {
		if k.Kind == plan.KindRoute {
			routes++
		}
		return k.Kind == plan.KindRoute && routes > manyRoutes
	})
}

// witness says what tells an operator who it is.
func witness(k plan.Kind) string {
	switch k {
	case plan.KindSysctl:
		return "no monitor tells who: look for what writes sysctls, such as a firewall's or a network manager's scripts"
	case plan.KindTable:
		return "`nft monitor` shows what they do"
	case plan.KindCNI:
		return "`auditctl -w` on the file tells who it is"
	}
	return "`ip monitor` shows what they do"
}

// problems puts contests into words that stay the same while they last.
func (r *rivals) problems(nodes []*topology.Node) []topology.Problem {
	few := r.few()
	if len(few) == 0 {
		return nil
	}
	owners := ownersOf(few, nodes)
	var problems []topology.Problem
	for _, k := range few {
		p := topology.Problem{
			Reason: topology.Contested, Own: k.Kind != plan.KindRoute,
			Detail: fmt.Sprintf("somebody on this host keeps taking away or changing %s; it is repaired every %s until they stop (%s)", k, repairEvery, witness(k.Kind)),
		}
		if k.Kind == plan.KindRoute {
			p.Node = owners[k.Name]
		}
		problems = append(problems, p)
	}
	if more := len(r.fights) - len(few); more > 0 {
		problems = append(problems, topology.Problem{Reason: topology.Contested, Detail: fmt.Sprintf("and so they do with %d more routes", more)})
	}
	return problems
}

// tell says in the log how often each was repaired: at first, and once a minute.
func (r *rivals) tell(ctx context.Context) {
	now := r.now()
	for _, k := range r.few() {
		fight := r.contests[k]
		if fight.told && now.Sub(fight.since) < contestLog {
			continue
		}
		log.FromContext(ctx).Info("Repaired again and again", "what", k.String(), "times", fight.times, "in", now.Sub(fight.since).Round(time.Second).String())
		fight.told, fight.times, fight.since = true, 0, now
	}
}

// wait returns when to look again because of contests, 0: need not.
func (r *rivals) wait() time.Duration {
	if len(r.fights) == 0 {
		return 0
	}
	return repairEvery
}

// ownersOf returns, by name, the Nodes whose subnets the routes among the Keys lead
// to.
func ownersOf(keys []plan.Key, nodes []*topology.Node) map[string]string {
	names := make(map[netip.Prefix]string, len(keys))
	for _, k := range keys {
		if p, err := netip.ParsePrefix(k.Name); err == nil {
			names[p] = k.Name
		}
	}
	owners := make(map[string]string, len(keys))
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			if name, wanted := names[p]; wanted {
				owners[name] = n.Name
			}
		}
	}
	return owners
}
