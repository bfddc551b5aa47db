package controllers

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

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
