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

// changes tells what was made.
func (d *diary) changes(logger logr.Logger, c plan.Changes) {
	for _, s := range c.Sysctls {
		d.write(logger, topic{"sysctl", s.Path}, "Set", "sysctl", s.Path, "value", s.Value)
	}
	if c.AddBridge != nil {
		d.write(logger, topic{"bridge", ""}, "Made bridge", "bridge", c.AddBridge.Name, "mac", c.AddBridge.MAC, "mtu", c.AddBridge.MTU)
	}
	for _, dev := range c.SetDevices {
		d.write(logger, topic{"device", dev.Name}, "Set device", "device", dev.Name, "master", dev.Master, "up", dev.Up)
	}
	for _, a := range c.AddAddresses {
		d.write(logger, topic{"address", a.String()}, "Added address", "address", a.String())
	}
	for _, a := range c.DeleteAddresses {
		d.write(logger, topic{"address", a.String()}, "Deleted address", "address", a.String())
	}
	if c.Table != nil {
		d.write(logger, topic{"table", ""}, "Wrote nftables table", "table", topology.Table)
	}
	d.routes(logger, c)
	if c.CNI != nil {
		d.write(logger, topic{"CNI config", ""}, "Wrote CNI config", "subnets", c.CNI.Subnets, "mtu", c.CNI.MTU)
	}
}

func (d *diary) routes(logger logr.Logger, c plan.Changes) {
	if len(c.Add)+len(c.Replace)+len(c.Delete) > manyRoutes {
		d.write(logger, topic{"routes", "many"}, "Changed routes", "added", len(c.Add), "replaced", len(c.Replace), "deleted", len(c.Delete))
		return
	}
	for verb, routes := range map[string][]topology.Route{"Added route": c.Add, "Replaced route": c.Replace, "Deleted route": c.Delete} {
		for _, route := range routes {
			d.write(logger, topic{"route", route.Dst.String()}, verb, "route", route.String())
		}
	}
}
