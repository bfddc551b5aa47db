package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/nodestatus"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/test/apiserver"
)

// repeatInterval is when Events repeats a Problem that lasts.
const repeatInterval = 30 * time.Minute

// steppedEvents is an Events that runs when the test steps its clock.
type steppedEvents struct {
	*nodestatus.Events
	log   *logBook
	t     *testing.T
	ahead atomic.Int64

	mu       sync.Mutex
	problems []problem.Problem
}

func newSteppedEvents(t *testing.T, config *rest.Config) *steppedEvents {
	t.Helper()
	events, err := nodestatus.NewEvents(config, "node1")
	if err != nil {
		t.Fatal(err)
	}
	e := &steppedEvents{Events: events, t: t}
	events.Now = func() time.Time { return time.Now().Add(time.Duration(e.ahead.Load())) }
	return e
}

// Run does nothing until ctx ends.
func (e *steppedEvents) Run(ctx context.Context) { <-ctx.Done() }

// Update records the Problems.
func (e *steppedEvents) Update(r *status.Result) {
	e.mu.Lock()
	e.problems = r.Problems
	e.mu.Unlock()
	e.Events.Update(r)
}

// step writes the Events that are due now, and those that are due once the clock is advanced.
func (e *steppedEvents) step(d time.Duration) {
	ctx := e.log.into(e.t.Context())
	e.Sync(ctx)
	e.ahead.Add(int64(d))
	e.Sync(ctx)
}

// has returns an error until a pass has passed on a Problem of node1.
func (e *steppedEvents) has(reason problem.Reason) func() error {
	return func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !slices.ContainsFunc(e.problems, func(p problem.Problem) bool { return p.Reason == reason && p.IsEvent("node1") }) {
			return fmt.Errorf("the Events have the Problems %q", e.problems)
		}
		return nil
	}
}

// lacks returns an error while the Problem is there. The latest Result may show a node as ready a moment before its Events do.
func (e *steppedEvents) lacks(reason problem.Reason) func() error {
	return func() error {
		if e.has(reason)() == nil {
			return fmt.Errorf("%s is still there", reason)
		}
		return nil
	}
}

// TestEvents follows a fault with the real API server, with the rights of the agent alone.
func TestEvents(t *testing.T) {
	api := useNodes(t)
	api.ForgetEvents()
	t.Cleanup(api.ForgetEvents)
	api.Add(node1(), peer(2), newNode("node3", "127.0.0.0/24", "192.168.1.13"))
	events := newSteppedEvents(t, api.TestUser(t, apiserver.MayWriteEvents()))
	a := startAgent(t, agentOptions{config: api.Reader, events: events})
	a.eventually(a.ready)
	a.eventually(func() error { return a.hasProblem("node3", problem.PodCIDRRefused) })
	a.eventually(events.lacks(problem.APIUnavailable))
	events.step(time.Hour)
	a.host.disturb(func() { a.host.refusedFacts = errors.New("no such device") })
	a.eventually(a.notReady("KernelFailed"))
	a.eventually(events.has(problem.KernelFailed))
	events.step(time.Minute)
	a.eventually(api.hasEvents("Warning KernelFailed x1"))
	api.wellFormed("no such device. Remediation: " + problem.KernelFailed.Remediation())
	events.step(2 * repeatInterval)
	a.eventually(api.hasEvents("Warning KernelFailed x2"))

	api.ForgetEvents() // as the API server does after an hour
	events.step(2 * repeatInterval)
	a.eventually(api.hasEvents("Warning KernelFailed x1"))

	a.host.disturb(func() { a.host.refusedFacts = nil })
	a.eventually(a.ready)
	a.eventually(func() error {
		events.step(time.Minute)
		return api.hasEvents("Warning KernelFailed x1", "Normal PodNetworkReady x1")()
	})
}

// wellFormed fails unless the only Event is one that kubectl shows for node1.
func (n clusterNodes) wellFormed(note string) {
	n.t.Helper()
	list, err := n.Admin.EventsV1().Events("default").List(context.Background(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		n.t.Fatal(len(list.Items), err)
	}
	e := list.Items[0]
	want := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "node1", UID: "node1"}
	if e.Regarding != want || e.ReportingController != "plainroute" || e.ReportingInstance != "node1" || !strings.HasSuffix(e.Note, note) || e.EventTime.IsZero() {
		n.t.Errorf("the Event is %+v", e)
	}
}

// Without the right to write them Events are lost, which is logged once; no route waits for
// them.
func TestEventsAreRefused(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	config := api.TestUser(t)
	events := newSteppedEvents(t, config)
	a := startAgent(t, agentOptions{config: config, events: events, host: func(h *memoryHost) {
		h.refusedFacts = errors.New("no such device")
	}})
	a.eventually(events.has(problem.KernelFailed))
	for range 20 {
		events.step(repeatInterval)
	}
	if got := a.log.with("Failed to write an Event", "forbidden"); len(got) != 1 {
		t.Errorf("want one line in the log, got %q", got)
	}
	a.host.disturb(func() { a.host.refusedFacts = nil })
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2)))
}

// A running agent patches its Node, and writes Events about its Problems.
func TestNodeStatusByAFakeServer(t *testing.T) {
	f := apiserver.NewFake(t, apiserver.Tainted(), peer(2))
	events := newSteppedEvents(t, f.Config)
	a := startAgent(t, agentOptions{config: f.Config, writer: true, events: events})
	a.eventually(a.ready)
	a.eventually(func() error {
		if n := len(f.Requests("PATCH")); n < 2 {
			return fmt.Errorf("%d patches", n)
		}
		return nil
	})
	f.Refuse(func(q *http.Request) int {
		if q.Method == http.MethodPatch {
			return http.StatusForbidden
		}
		return 0
	})
	a.eventually(func() error {
		return a.hasDetail(problem.NodeUpdateFailed, "removing the taint", "leave --node-condition and --startup-taint out")
	})
	a.eventually(func() error {
		return a.hasDetail(problem.NodeUpdateFailed, "NetworkUnavailable", "leave --node-condition and --startup-taint out")
	})
	well := node1()
	well.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse}}
	f.Refuse(nil)
	f.Create(well)
	a.eventually(a.noProblems)
	a.eventually(events.lacks(problem.NodeUpdateFailed))

	a.host.disturb(func() { a.host.refusedFacts = errors.New("no such device") })
	a.eventually(events.has(problem.KernelFailed))
	told := func(want ...string) func() error {
		return func() error {
			if got := f.Events(); !slices.Equal(got, want) {
				return fmt.Errorf("the Events are %q, want %q", got, want)
			}
			return nil
		}
	}
	events.step(2 * time.Minute)
	a.eventually(told("Warning KernelFailed x1"))
	a.host.disturb(func() { a.host.refusedFacts = nil })
	a.eventually(a.ready)
	a.eventually(events.lacks(problem.KernelFailed))
	events.step(time.Minute)
	events.step(2 * time.Minute)
	a.eventually(told("Normal PodNetworkReady x1", "Warning KernelFailed x1"))
}

func (n clusterNodes) hasEvents(want ...string) func() error {
	return func() error { return n.HasEvents(want...) }
}
