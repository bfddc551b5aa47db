package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	// An object that another process removes or changes is repaired at once some
	// immediateRepairs times, and then once every repairInterval.
	immediateRepairs = 20
	repairInterval   = 2 * time.Second
	// An object flaps while fewer than flapThreshold immediate repairs are left.
	flapThreshold   = 5
	flapLogInterval = time.Minute // how often a flap is logged
)

// flapGuard delays repairs of objects that flap: another process on this host keeps removing or
// changing them.
type flapGuard struct {
	now     func() time.Time
	objects map[plan.Key]*flap // that were repaired not long ago
	flaps   []plan.Key         // those that flap, sorted, as of the last settle
}

// A flap counts the repairs of one object.
type flap struct {
	budget *rate.Limiter
	times  int
	since  time.Time // of times
	logged bool
}

func newFlapGuard(now func() time.Time) *flapGuard {
	return &flapGuard{now: now, objects: map[plan.Key]*flap{}}
}

// filter returns the changes without repairs that must wait.
func (g *flapGuard) filter(c plan.Changes) plan.Changes {
	if len(g.objects) == 0 {
		return c
	}
	now := g.now()
	return c.Without(func(k plan.Key) bool {
		f, ok := g.objects[k]
		return ok && f.budget.TokensAt(now) < 1
	})
}

// repaired counts repairs.
func (g *flapGuard) repaired(keys []plan.Key) {
	now := g.now()
	for _, k := range keys {
		f, ok := g.objects[k]
		if !ok {
			f = &flap{budget: rate.NewLimiter(rate.Every(repairInterval), immediateRepairs), since: now}
			g.objects[k] = f
		}
		f.budget.AllowN(now, 1)
		f.times++
	}
}

// settle updates which objects flap, and forgets those whose immediate repairs are all left.
func (g *flapGuard) settle() {
	g.flaps = nil
	now := g.now()
	for k, f := range g.objects {
		switch left := f.budget.TokensAt(now); {
		case left < flapThreshold:
			g.flaps = append(g.flaps, k)
		case left >= immediateRepairs:
			delete(g.objects, k)
		}
	}
	slices.SortFunc(g.flaps, plan.Key.Compare)
}

// isFlapping reports whether an object flaps.
func (g *flapGuard) isFlapping(k plan.Key) bool {
	_, found := slices.BinarySearchFunc(g.flaps, k, plan.Key.Compare)
	return found
}

// reported returns the flaps that are reported one by one. Of routes, of which all may flap at
// once, these are the first maxRouteLines.
func (g *flapGuard) reported() []plan.Key {
	routes := 0
	return slices.DeleteFunc(slices.Clone(g.flaps), func(k plan.Key) bool {
		if k.Kind.OfPeers() {
			routes++
		}
		return k.Kind.OfPeers() && routes > maxRouteLines
	})
}

// monitorHint returns how to find the other process.
func monitorHint(k plan.Kind) string {
	switch k {
	case plan.KindSysctl:
		return "No monitor shows it: look for programs that write sysctls, such as scripts of a firewall or a network manager."
	case plan.KindTable:
		return "`nft monitor` shows its changes."
	case plan.KindCNI:
		return "`auditctl -w` on the file shows which program it is."
	}
	return "`ip monitor` shows its changes."
}

// problems returns a Problem for each flap, whose text stays the same while the flap lasts.
func (g *flapGuard) problems(nodes []*topology.Node) []problem.Problem {
	reported := g.reported()
	if len(reported) == 0 {
		return nil
	}
	owners := ownersOf(reported, nodes)
	var problems []problem.Problem
	for _, k := range reported {
		p := problem.Problem{
			Reason:      problem.Contested,
			Message:     fmt.Sprintf("another program on this host keeps removing or changing %s; it is repaired every %s until that stops", k, repairInterval),
			Remediation: monitorHint(k.Kind) + " Configure that program to leave plainroute's objects alone.",
		}.Blocking(!k.Kind.OfPeers())
		if k.Kind == plan.KindRoute {
			p.Node = owners[k.Name]
		}
		problems = append(problems, p)
	}
	if more := len(g.flaps) - len(reported); more > 0 {
		problems = append(problems, problem.Problem{Reason: problem.Contested, Message: text.More(more, "routes that another program keeps removing or changing")})
	}
	return problems
}

// log logs how often each object was repaired: when it begins to flap, and every flapLogInterval.
func (g *flapGuard) log(ctx context.Context) {
	now := g.now()
	for _, k := range g.reported() {
		f := g.objects[k]
		if f.logged && now.Sub(f.since) < flapLogInterval {
			continue
		}
		logr.FromContextOrDiscard(ctx).Info("Repaired repeatedly", "what", k.String(), "times", f.times, "in", now.Sub(f.since).Round(time.Second).String())
		f.logged, f.times, f.since = true, 0, now
	}
}

// wait returns when the next delayed repair may be due, 0: nothing flaps.
func (g *flapGuard) wait() time.Duration {
	if len(g.flaps) == 0 {
		return 0
	}
	return repairInterval
}

// ownersOf returns the names of the Nodes to whose pod subnets the routes among the keys lead,
// by the keys' names.
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
