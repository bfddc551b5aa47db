package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/topology"
)

// teller is an Events whose clock can be put forward.
type teller struct {
	*Events
	ahead *atomic.Int64
}

func newTeller(t *testing.T, config *rest.Config) teller {
	t.Helper()
	events, err := NewEvents(config, "node1")
	if err != nil {
		t.Fatal(err)
	}
	ahead := &atomic.Int64{}
	events.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return teller{events, ahead}
}

// forward puts the clock forward once what is known is taken up, and what was told is noted.
func (e teller) forward(d time.Duration) {
	e.rest()
	e.ahead.Add(int64(d))
	signal(e.news)
}

// rest waits for a whole round: that there is room for the third piece of news tells that the round has ended
// which the first one began.
func (e teller) rest() {
	for range 3 {
		select {
		case e.news <- struct{}{}:
		case <-time.After(limit): // who waits for what it tells will say so
		}
	}
}

// knows objects until a pass has told of the fault.
func (e teller) knows(reason topology.Reason) func() error {
	return func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if _, ok := e.faults[reason]; !ok {
			return fmt.Errorf("what is known is %q", e.faults)
		}
		return nil
	}
}

// lacks objects while a fault is known. That a node is ready can be seen a moment before its Events know.
func (e teller) lacks(reason topology.Reason) func() error {
	return func() error {
		if e.knows(reason)() == nil {
			return fmt.Errorf("%s is known still", reason)
		}
		return nil
	}
}

// mayTell is what config/rbac gives an agent.
func mayTell() rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}}
}

// eventsOfNode1 returns what `kubectl describe node` finds (searchEvents of
// k8s.io/kubectl/pkg/describe): Events of core/v1 by the Node's name for a UID.
func (n nodes) eventsOfNode1() []corev1.Event {
	n.t.Helper()
	list, err := cluster.admin.CoreV1().Events("").List(context.Background(), metav1.ListOptions{FieldSelector: fields.Set{
		"involvedObject.kind": "Node", "involvedObject.name": "node1", "involvedObject.uid": "node1",
	}.String()})
	if err != nil {
		n.t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return cmp.Compare(a.Reason+a.Message, b.Reason+b.Message) })
	return list.Items
}

func (n nodes) forgetEvents() {
	n.t.Helper()
	if err := cluster.admin.EventsV1().Events("default").DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		n.t.Error("deleting all Events:", err)
	}
}

// told objects unless these are our Node's Events, each as "Type Reason xCount".
func (n nodes) told(want ...string) func() error {
	return func() error {
		var have []string
		for _, e := range n.eventsOfNode1() {
			count := int32(1)
			if e.Series != nil {
				count = e.Series.Count
			}
			have = append(have, fmt.Sprintf("%s %s x%d", e.Type, e.Reason, count))
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("the Events are %q, want %q", have, want)
		}
		return nil
	}
}

// TestEvents follows a fault by the real API server, with no rights but the agent's.
func TestEvents(t *testing.T) {
	api := useNodes(t)
	api.forgetEvents()
	t.Cleanup(api.forgetEvents)
	api.create(node1(), peer(2), newNode("node3", "127.0.0.0/24", "192.168.1.13"))
	events := newTeller(t, heraldConfig(t, mayTell()))
	a := startAgent(t, agentOptions{config: cluster.reader, events: events.Events})
	a.eventually(a.ready)
	a.eventually(func() error { return a.hasProblem("node3", topology.PodCIDRRefused) })
	a.eventually(events.lacks(topology.APIUnavailable))
	events.forward(time.Hour)
	a.host.disturb(func() { a.host.refusedFacts = errors.New("no such device") })
	a.eventually(a.notReady("KernelFailed"))
	a.eventually(events.knows(topology.KernelFailed))
	events.forward(time.Minute)
	a.eventually(api.told("Warning KernelFailed x1"))
	api.wellFormed("no such device. What to do: " + topology.KernelFailed.Advice())
	events.forward(2 * tellAgain)
	a.eventually(api.told("Warning KernelFailed x2"))

	api.forgetEvents() // as the API server does after an hour
	events.forward(2 * tellAgain)
	a.eventually(api.told("Warning KernelFailed x1"))

	a.host.disturb(func() { a.host.refusedFacts = nil })
	a.eventually(a.ready)
	a.eventually(func() error {
		events.forward(time.Minute)
		return api.told("Warning KernelFailed x1", "Normal PodNetworkReady x1")()
	})
}

// wellFormed fails unless our Node's only Event is what kubectl shows well.
func (n nodes) wellFormed(note string) {
	n.t.Helper()
	list, err := cluster.admin.EventsV1().Events("default").List(context.Background(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		n.t.Fatal(len(list.Items), err)
	}
	e := list.Items[0]
	want := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "node1", UID: "node1"}
	if e.Regarding != want || e.ReportingController != "plainroute" || e.ReportingInstance != "node1" || !strings.HasSuffix(e.Note, note) || e.EventTime.IsZero() {
		n.t.Errorf("the Event is %+v", e)
	}
}

// An agent that is started anew counts up what the one before it told.
func TestEventsOfARestartedAgent(t *testing.T) {
	api := useNodes(t)
	api.forgetEvents()
	t.Cleanup(api.forgetEvents)
	config := heraldConfig(t, mayTell())
	for i := 1; i <= 3; i++ {
		events := newTeller(t, config)
		if err := events.post(context.Background(), topology.CNIConflict, &tale{note: "05-other"}); err != nil {
			t.Fatal(err)
		}
		if err := api.told(fmt.Sprintf("Warning CNIConflict x%d", i))(); err != nil {
			t.Error(err)
		}
	}
}

// Without the right to, or with no API server to be reached, Events are lost, which the log
// says once; no route waits for it.
func TestEventsAreRefused(t *testing.T) {
	api := useNodes(t)
	api.create(node1(), peer(2))
	config := heraldConfig(t)
	events := newTeller(t, config)
	a := startAgent(t, agentOptions{config: config, events: events.Events, host: func(h *memoryHost) {
		h.refusedFacts = errors.New("no such device")
	}})
	a.eventually(events.knows(topology.KernelFailed))
	for range 20 {
		events.forward(tellAgain)
	}
	events.rest()
	if got := a.log.with("Event not told", "forbidden"); len(got) != 1 {
		t.Errorf("want one line in the log, got %q", got)
	}
	a.host.disturb(func() { a.host.refusedFacts = nil })
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2)))
}

// The API server takes what is as long as it can be.
func TestLongestEvent(t *testing.T) {
	api := useNodes(t)
	t.Cleanup(api.forgetEvents)
	events := newTeller(t, heraldConfig(t, mayTell()))
	label := strings.Repeat("n", 60)
	events.node = strings.Join([]string{label, label, label, label}, ".") + ".nnnnnnnn"
	for _, reason := range topology.Reasons() {
		note := noteOf(strings.Repeat("ö", noteLimit), 4999, reason.Advice())
		if err := events.post(context.Background(), reason, &tale{note: note}); err != nil {
			t.Errorf("%s of a note of %d bytes and a name of %d: %v", reason, len(note), len(events.node), err)
		}
	}
}

// After an outage what is told is what is true then, not what was.
func TestEventsAfterAnOutage(t *testing.T) {
	api := useNodes(t)
	api.forgetEvents()
	t.Cleanup(api.forgetEvents)
	gate, through := newGate(t)
	config := heraldConfig(t, mayTell())
	config.Host = through.Host
	events := newTeller(t, config)
	events.agenda = newAgenda(func() float64 { return 0 })
	events.faults = map[topology.Reason]string{topology.CNIFailed: "disk full", topology.CNIConflict: "05-other"}
	for range 10 {
		events.round(t.Context())
		events.ahead.Add(int64(time.Minute))
	}
	if events.lost < 4 || events.lost > 12 {
		t.Errorf("%d Events are lost in ten minutes, want a few tries", events.lost)
	}
	gate.open()
	events.faults = map[topology.Reason]string{topology.CNIConflict: "06-other"}
	for range 60 {
		events.round(t.Context())
		events.ahead.Add(int64(time.Minute))
	}
	if err := api.told("Warning CNIConflict x2")(); err != nil || events.lost != 0 {
		t.Fatalf("%v; %d Events are lost", err, events.lost)
	}
	if e := api.eventsOfNode1(); !strings.HasPrefix(e[0].Message, "06-other") {
		t.Errorf("it told %q", e[0].Message)
	}
}
