package controllers

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/ratelog"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A conflict that comes and goes all day is logged once a minute, and its last change is logged in the end.
func TestLogOfATogglingProblem(t *testing.T) {
	now := time.Unix(1e9, 0)
	r, b := &NodeReconciler{log: ratelog.New(func() time.Time { return now })}, &logBook{}
	logger := logr.FromSlogHandler(slog.NewTextHandler(b, nil))
	conflict := sets.New(problem.Problem{Subject: problem.Node("node2"), Reason: problem.RouteConflict, Message: "x"})
	other := sets.New(problem.Problem{Subject: problem.Node("node3"), Reason: problem.RouteConflict, Message: "x"})
	const minutes = 30
	for range minutes * 60 {
		r.logProblems(logger, "Problem", conflict)
		r.logProblems(logger, "Problem gone", conflict)
		r.log.Flush(logger)
		now = now.Add(time.Second)
	}
	if n := len(b.with("node2")); n < ratelog.Burst+minutes-2 || n > ratelog.Burst+minutes+1 {
		t.Errorf("%d lines in %d minutes; want %d at once and one a minute", n, minutes, ratelog.Burst)
	}
	if n := len(b.with("node2", "linesLeftOut=119")); n == 0 {
		t.Error("no line says how many were left out")
	}
	r.logProblems(logger, "Problem", other)
	if len(b.with("node3")) != 1 {
		t.Error("what happens to one Node silences what happens to another")
	}
	if r.log.Wait() != ratelog.Interval {
		t.Errorf("the end of it is told after %s", r.log.Wait())
	}
	now = now.Add(ratelog.Interval)
	r.log.Flush(logger)
	lines := b.with("node2")
	if last := lines[len(lines)-1]; !strings.Contains(last, "Problem gone") || r.log.Wait() != 0 {
		t.Errorf("the last line is %s, next one after %s", last, r.log.Wait())
	}
}

// The route of a Node whose address keeps changing is replaced each time, and logged a few times.
func TestLogOfAChangingAddress(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	now := time.Now() // all of it is at once, however long it takes
	a := startAgent(t, agentOptions{log: ratelog.New(func() time.Time { return now })})
	a.eventually(a.hasRoutes(peerRoute(2)))
	for i := range 3 * ratelog.Burst {
		address := []string{"192.168.1.99", "192.168.1.12"}[i%2]
		api.EditStatus("node2", func(n *corev1.Node) { n.Status.Addresses[0].Address = address })
		a.eventually(a.hasRoutes("10.244.2.0/24 via " + address))
	}
	if n := len(a.log.with("route", "10.244.2.0/24")); n != ratelog.Burst {
		t.Errorf("%d lines; want %d", n, ratelog.Burst)
	}
}

// Many lines about one object suppress no line about another.
func TestLogOfEachObject(t *testing.T) {
	peerOf := func(i int) plan.Changes { return plan.Of(plan.Replace, routeTo(byte(i))[0].Object) }
	address := func(i int) topology.Address {
		return topology.Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 1}), 24)}
	}
	of := func(reason problem.Reason, nodes ...string) sets.Set[problem.Problem] {
		all := sets.New[problem.Problem]()
		for _, n := range nodes {
			all.Insert(problem.Problem{Subject: problem.Node(n), Reason: reason})
		}
		return all
	}
	var many []string
	for i := range maxRouteLines + 1 {
		many = append(many, fmt.Sprint(i))
	}
	reasons := []problem.Reason{problem.RouteConflict, problem.RouteFailed}
	for name, write := range map[string]func(r *NodeReconciler, l logr.Logger, i int){
		"setting": func(r *NodeReconciler, l logr.Logger, i int) {
			r.logChanges(l, plan.Of(plan.Replace, plan.Sysctl{Path: fmt.Sprint(i)}))
		},
		"device": func(r *NodeReconciler, l logr.Logger, i int) {
			r.logChanges(l, plan.Of(plan.Replace, plan.Device{Device: topology.Device{Name: fmt.Sprint(i)}}))
		},
		"new address": func(r *NodeReconciler, l logr.Logger, i int) {
			r.logChanges(l, plan.Of(plan.Add, plan.Address{Address: address(i)}))
		},
		"former address": func(r *NodeReconciler, l logr.Logger, i int) {
			r.logChanges(l, plan.Of(plan.Delete, plan.Address{Address: address(i)}))
		},
		"route": func(r *NodeReconciler, l logr.Logger, i int) { r.logChanges(l, peerOf(i)) },
		"Problem": func(r *NodeReconciler, l logr.Logger, i int) {
			r.logProblems(l, "Problem", of(reasons[0], fmt.Sprint(i)))
		},
		"reason": func(r *NodeReconciler, l logr.Logger, i int) {
			r.logProblems(l, "Problem", of(reasons[i], "node2"))
		},
		"reason of many": func(r *NodeReconciler, l logr.Logger, i int) {
			r.logProblems(l, "Problem", of(reasons[i], many...))
		},
		"kind of a thing": func(r *NodeReconciler, l logr.Logger, i int) {
			r.logChanges(l, plan.Of(plan.Add, []plan.Object{plan.Bridge{Device: topology.Device{Name: topology.Table}}, plan.Table{}}[i]))
		},
	} {
		r, b := &NodeReconciler{log: ratelog.New(func() time.Time { return time.Unix(1e9, 0) })}, &logBook{}
		logger := logr.FromSlogHandler(slog.NewTextHandler(b, nil))
		for range ratelog.Burst + 1 {
			write(r, logger, 0)
		}
		before := len(b.with())
		write(r, logger, 1)
		if after := len(b.with()); before != ratelog.Burst || after != before+1 {
			t.Errorf("of one %s there are %d lines, of another %d", name, before, after-before)
		}
	}
}

// Routes that are added, replaced and deleted are many together.
func TestManyRoutesOfAllKinds(t *testing.T) {
	some := slices.Repeat([]plan.Object{plan.Route{}}, maxRouteLines/3+1)
	r, b := &NodeReconciler{log: ratelog.New(time.Now)}, &logBook{}
	r.logChanges(logr.FromSlogHandler(slog.NewTextHandler(b, nil)), slices.Concat(plan.Of(plan.Add, some...), plan.Of(plan.Replace, some...), plan.Of(plan.Delete, some...)))
	if got := b.with(); len(got) != 1 || !strings.Contains(got[0], `msg="Changed routes" added=7 replaced=7 deleted=7`) {
		t.Errorf("the log says %q", got)
	}
}
