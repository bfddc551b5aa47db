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
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A conflict that comes and goes all day costs a line a minute, and the last one says how it ended.
func TestDiaryBoundsWhatTogglesAllDay(t *testing.T) {
	now := time.Unix(1e9, 0)
	d, b := newDiary(func() time.Time { return now }), &logBook{}
	logger := logr.FromSlogHandler(slog.NewTextHandler(b, nil))
	ctx := log.IntoContext(t.Context(), logger)
	conflict := map[topology.Problem]bool{{Node: "node2", Reason: topology.RouteConflict, Detail: "x"}: true}
	other := map[topology.Problem]bool{{Node: "node3", Reason: topology.RouteConflict, Detail: "x"}: true}
	const minutes = 30
	for range minutes * 60 {
		d.problems(logger, "Problem", conflict, nil)
		d.problems(logger, "Problem gone", conflict, nil)
		d.catchUp(ctx)
		now = now.Add(time.Second)
	}
	if n := len(b.with("node2")); n < linesAtOnce+minutes-2 || n > linesAtOnce+minutes+1 {
		t.Errorf("%d lines in %d minutes; want %d at once and one a minute", n, minutes, linesAtOnce)
	}
	if n := len(b.with("node2", "linesLeftOut=119")); n == 0 {
		t.Error("no line says how many were left out")
	}
	d.problems(logger, "Problem", other, nil)
	if len(b.with("node3")) != 1 {
		t.Error("what happens to one Node silences what happens to another")
	}
	if d.wait() != lineEvery {
		t.Errorf("the end of it is told after %s", d.wait())
	}
	now = now.Add(lineEvery)
	d.catchUp(ctx)
	lines := b.with("node2")
	if last := lines[len(lines)-1]; !strings.Contains(last, "Problem gone") || d.wait() != 0 {
		t.Errorf("the last line is %s, next one after %s", last, d.wait())
	}
	now = now.Add(linesAtOnce * lineEvery)
	if d.catchUp(ctx); len(d.topics) != 0 {
		t.Errorf("%d stories are never forgotten", len(d.topics))
	}
}

// A Node whose address flaps all day has its route replaced each time, and not told each time.
func TestFlappingAddressIsNotToldEachTime(t *testing.T) {
	api := useNodes(t)
	api.create(node1(), peer(2))
	now := time.Now() // all of it is at once, however long it takes
	a := startAgent(t, agentOptions{diary: newDiary(func() time.Time { return now })})
	a.eventually(a.hasRoutes(peerRoute(2)))
	for i := range 3 * linesAtOnce {
		address := []string{"192.168.1.99", "192.168.1.12"}[i%2]
		api.updateStatus("node2", func(n *corev1.Node) { n.Status.Addresses[0].Address = address })
		a.eventually(a.hasRoutes("10.244.2.0/24 via " + address))
	}
	if n := len(a.log.with("route", "10.244.2.0/24")); n != linesAtOnce {
		t.Errorf("%d lines; want %d", n, linesAtOnce)
	}
}

// What happens to one thing often silences nothing else.
func TestDiaryOfEachThing(t *testing.T) {
	peerOf := func(i int) plan.Changes { return plan.Of(plan.Replace, routeTo(byte(i))[0].Object) }
	address := func(i int) topology.Address {
		return topology.Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 1}), 24)}
	}
	problem := func(reason topology.Reason, nodes ...string) map[topology.Problem]bool {
		all := map[topology.Problem]bool{}
		for _, n := range nodes {
			all[topology.Problem{Node: n, Reason: reason}] = true
		}
		return all
	}
	var many []string
	for i := range manyRoutes + 1 {
		many = append(many, fmt.Sprint(i))
	}
	reasons := []topology.Reason{topology.RouteConflict, topology.RouteFailed}
	for name, write := range map[string]func(d *diary, l logr.Logger, i int){
		"setting": func(d *diary, l logr.Logger, i int) {
			d.changes(l, plan.Of(plan.Replace, plan.Sysctl{Path: fmt.Sprint(i)}))
		},
		"device": func(d *diary, l logr.Logger, i int) {
			d.changes(l, plan.Of(plan.Replace, plan.Device{Device: topology.Device{Name: fmt.Sprint(i)}}))
		},
		"new address": func(d *diary, l logr.Logger, i int) {
			d.changes(l, plan.Of(plan.Add, plan.Address{Address: address(i)}))
		},
		"former address": func(d *diary, l logr.Logger, i int) {
			d.changes(l, plan.Of(plan.Delete, plan.Address{Address: address(i)}))
		},
		"route": func(d *diary, l logr.Logger, i int) { d.changes(l, peerOf(i)) },
		"Problem": func(d *diary, l logr.Logger, i int) {
			d.problems(l, "Problem", problem(reasons[0], fmt.Sprint(i)), nil)
		},
		"reason":         func(d *diary, l logr.Logger, i int) { d.problems(l, "Problem", problem(reasons[i], "node2"), nil) },
		"reason of many": func(d *diary, l logr.Logger, i int) { d.problems(l, "Problem", problem(reasons[i], many...), nil) },
		"kind of a thing": func(d *diary, l logr.Logger, i int) {
			d.changes(l, plan.Of(plan.Add, []plan.Object{plan.Bridge{Device: topology.Device{Name: topology.Table}}, plan.Table{}}[i]))
		},
	} {
		d, b := newDiary(func() time.Time { return time.Unix(1e9, 0) }), &logBook{}
		logger := logr.FromSlogHandler(slog.NewTextHandler(b, nil))
		for range linesAtOnce + 1 {
			write(d, logger, 0)
		}
		before := len(b.with())
		write(d, logger, 1)
		if after := len(b.with()); before != linesAtOnce || after != before+1 {
			t.Errorf("of one %s there are %d lines, of another %d", name, before, after-before)
		}
	}
}

// Routes that are added, replaced and deleted are many together.
func TestManyRoutesOfAllKinds(t *testing.T) {
	some := slices.Repeat([]plan.Object{plan.Route{}}, manyRoutes/3+1)
	d, b := newDiary(time.Now), &logBook{}
	d.changes(logr.FromSlogHandler(slog.NewTextHandler(b, nil)), slices.Concat(plan.Of(plan.Add, some...), plan.Of(plan.Replace, some...), plan.Of(plan.Delete, some...)))
	if got := b.with(); len(got) != 1 || !strings.Contains(got[0], `msg="Changed routes" added=7 replaced=7 deleted=7`) {
		t.Errorf("the log says %q", got)
	}
}
