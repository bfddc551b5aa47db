package controllers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// An eventStory writes down what an Events asks of a server, what Events are there then, and what the log says.
type eventStory struct {
	*single
	server *fakeServer
	events *Events
	asked  int
}

// restart makes another Events, as of an agent that is started anew.
func (s *eventStory) restart() {
	s.t.Helper()
	e, err := NewEvents(s.server.config, "node1")
	if err != nil {
		s.t.Fatal(err)
	}
	e.now, e.agenda = s.clock.read, newAgenda(func() float64 { return 0 })
	e.faults = map[topology.Reason]string{topology.CNIConflict: "05-other"}
	s.events = e
}

// then lets the time go by until something is due, and quietTime more.
func (s *eventStory) then(what string) {
	s.t.Helper()
	s.events.round(s.t.Context())
	s.clock.step(quietTime)
	wait := s.events.round(s.t.Context())
	s.clock.step(wait - quietTime)
	fmt.Fprintf(&s.story, "%s:", what)
	for _, r := range s.server.requests("")[s.asked:] {
		method, _, _ := strings.Cut(r, " ")
		fmt.Fprintf(&s.story, " %s", method)
		s.asked++
	}
	fmt.Fprintf(&s.story, ", there are %q, next after %s\n", s.server.told(), wait)
	s.lines()
}

// What is told again counts up the Event that is there, whoever made it, and makes it anew if it is forgotten.
func TestEventsByAFakeServer(t *testing.T) {
	f := newFakeServer(t)
	s := &eventStory{single: newSingle(t, agentOptions{}), server: f}
	refuse := func(method string) {
		f.refuses(func(q *http.Request) int {
			if q.Method == method {
				return http.StatusForbidden
			}
			return 0
		})
	}
	for _, c := range []struct {
		what string
		do   func()
	}{
		{"nothing may be told", func() { s.restart(); refuse(http.MethodPost) }},
		{"it may", func() { f.refuses(nil) }},
		{"it lasts", func() {}},
		{"and lasts", func() {}},
		{"another agent", func() { s.restart() }},
		{"and lasts", func() {}},
		{"another agent, which may change nothing", func() { s.restart(); refuse(http.MethodPatch) }},
		{"and it may", func() { f.refuses(nil) }},
		{"the server answers nonsense", func() { f.refuses(func(*http.Request) int { return nonsense }) }},
		{"the server forgets, and takes no Event", func() { f.forget(); refuse(http.MethodPost) }},
		{"it takes Events", func() { f.refuses(nil) }},
		{"and lasts", func() {}},
		{"the server refuses", func() { refuse(http.MethodPatch) }},
		{"it takes Events", func() { f.refuses(nil) }},
		{"in other words", func() { s.events.faults = map[topology.Reason]string{topology.CNIConflict: "06-other"} }},
		{"it is over", func() { s.events.faults, s.events.ready = nil, true }},
	} {
		c.do()
		s.then(c.what)
	}
	s.tells("events")
}

// An Event is of events.k8s.io/v1, about our Node by its name, and its name follows from what it says.
func TestEventOnTheWire(t *testing.T) {
	f := newFakeServer(t)
	f.config.ContentType, f.config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	now := time.Unix(1e9, 123456000).UTC()
	for _, reason := range []topology.Reason{topology.CNIConflict, topology.EventReady} {
		e, err := NewEvents(f.config, "node1")
		if err != nil {
			t.Fatal(err)
		}
		if at := e.now(); time.Since(at) > time.Minute {
			t.Errorf("its clock says %s", at)
		}
		e.now = func() time.Time { return now }
		for range 2 {
			if err := e.post(t.Context(), reason, &tale{note: "a note"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	const head = `POST /apis/events.k8s.io/v1/namespaces/default/events timeout=10s  `
	const event = `{"kind":"Event","apiVersion":"events.k8s.io/v1","metadata":{"name":%q,"namespace":"default"},"eventTime":"2001-09-09T01:46:40.123456Z",` +
		`"reportingController":"plainroute","reportingInstance":"node1","action":"ServePods","reason":%q,` +
		`"regarding":{"kind":"Node","name":"node1","uid":"node1","apiVersion":"v1"},"note":"a note","type":%q,"deprecatedSource":{},"deprecatedFirstTimestamp":null,"deprecatedLastTimestamp":null}`
	const series = `PATCH /apis/events.k8s.io/v1/namespaces/default/events/%s timeout=10s application/merge-patch+json {"series":{"count":2,"lastObservedTime":"2001-09-09T01:46:40.123456Z"}}`
	conflict, ready := eventName("node1", topology.CNIConflict, "a note"), eventName("node1", topology.EventReady, "a note")
	for i, want := range map[int]string{
		0: head + fmt.Sprintf(event, conflict, "CNIConflict", "Warning"), 3: fmt.Sprintf(series, conflict), 4: head + fmt.Sprintf(event, ready, "PodNetworkReady", "Normal"),
	} {
		if got := f.requests("")[i]; got != want {
			t.Errorf("it asked\n%s, want\n%s", got, want)
		}
	}
}

// A name is a subdomain of 253 bytes at most, and another one for each Node, reason and note.
func TestNamesOfEvents(t *testing.T) {
	const most, suffix = 253, 17 // a dot and 64 bits
	seen := map[string]bool{}
	for _, c := range []struct {
		node   string
		reason topology.Reason
		note   string
		kept   int // bytes of the Node's name
	}{
		{"node1", topology.CNIConflict, "a", 5},
		{"node1", topology.CNIConflict, "b", 5},
		{"node1", topology.CNIFailed, "a", 5},
		{"node2", topology.CNIFailed, "a", 5},
		{strings.Repeat("n", most-suffix), topology.CNIFailed, "a", most - suffix},
		{strings.Repeat("n", most-suffix+1), topology.CNIFailed, "a", most - suffix},
		{strings.Repeat("n", most-suffix-2) + ".-" + "n", topology.CNIFailed, "a", most - suffix - 2},
	} {
		name := eventName(c.node, c.reason, c.note)
		if !strings.HasPrefix(name, c.node[:c.kept]+".") || len(name) != c.kept+suffix || seen[name] {
			t.Errorf("the Event of %s is named %s", c.node, name)
		}
		seen[name] = true
	}
	if got := eventOf(strings.Repeat("n", 200), topology.CNIFailed, "a", time.Now()).ReportingInstance; len(got) != 128 {
		t.Errorf("the instance has %d bytes", len(got))
	}
}

// News is what differs from what is known already.
func TestOnlyNewsIsTold(t *testing.T) {
	f := newFakeServer(t)
	e, err := NewEvents(f.config, "node1")
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHerald(f.config, "node1", true, startup)
	if err != nil {
		t.Fatal(err)
	}
	fault, other := topology.Problem{Reason: topology.CNIFailed, Detail: "a", Own: true}, topology.Problem{Reason: topology.CNIFailed, Detail: "b", Own: true}
	node := []*topology.Node{{}}
	taints := []taint{{startup, corev1.TaintEffectNoSchedule}}
	for i, c := range []struct {
		result   status.Result
		standing *standing
		events   int
		herald   int
	}{
		{status.Result{}, nil, 0, 0},
		{status.Result{Ready: true}, nil, 1, 1},
		{status.Result{Ready: true}, nil, 0, 0},
		{status.Result{Ready: true, Nodes: node}, &standing{}, 1, 1},
		{status.Result{Ready: true, Nodes: node}, &standing{}, 0, 0},
		{status.Result{Nodes: node, Problems: []topology.Problem{fault}}, &standing{uid: "1"}, 1, 1},
		{status.Result{Nodes: node, Problems: []topology.Problem{other}}, &standing{uid: "1", unavailable: "True"}, 1, 1},
		{status.Result{Nodes: node, Problems: []topology.Problem{other}}, &standing{uid: "1", unavailable: "True", reason: "x"}, 0, 1},
		{status.Result{Nodes: node, Problems: []topology.Problem{other}}, &standing{uid: "1", unavailable: "True", reason: "x", noNetwork: true}, 0, 1},
		{status.Result{Nodes: node, Problems: []topology.Problem{other}}, &standing{uid: "1", unavailable: "True", reason: "x", noNetwork: true, taints: taints}, 0, 1},
		{status.Result{Nodes: node, Problems: []topology.Problem{other}}, &standing{uid: "1", unavailable: "True", reason: "x", noNetwork: true, taints: slices.Clone(taints)}, 0, 0},
	} {
		e.tell(&c.result)
		h.tell(c.result.Ready, c.standing)
		if len(e.news) != c.events || len(h.news) != c.herald {
			t.Errorf("step %d: news for Events %d, want %d; for the Herald %d, want %d", i, len(e.news), c.events, len(h.news), c.herald)
		}
		for _, news := range []chan struct{}{e.news, h.news} {
			select {
			case <-news:
			default:
			}
		}
	}
}

// What is due later is told then, without any news, and at rest nothing is looked at.
func TestEventsComeBackByThemselves(t *testing.T) {
	f := newFakeServer(t)
	e := newTeller(t, f.config)
	looks := atomic.Int64{}
	clock := e.now
	e.now = func() time.Time { looks.Add(1); return clock() }
	e.agenda = newAgenda(func() float64 { return 0 })
	done := make(chan error)
	go func() { done <- e.Start(t.Context()) }()
	e.rest()
	before := looks.Load()
	time.Sleep(20 * time.Millisecond)
	if n := looks.Load() - before; n > 3 {
		t.Errorf("at rest it looked %d times", n)
	}
	e.tell(&status.Result{Problems: []topology.Problem{{Reason: topology.CNIFailed, Detail: "a", Own: true}}})
	e.forward(quietTime - 100*time.Millisecond)
	for end := time.Now().Add(limit); len(f.told()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a fault that lasts is not told")
		}
	}
}

// A config that makes no client is an error of whoever is to use it.
func TestNoClient(t *testing.T) {
	config := &rest.Config{Host: "http://a b"}
	_, events := NewEvents(config, "node1")
	_, herald := NewHerald(config, "node1", true, "")
	_, source := NewNodeSource(config, nil)
	for what, err := range map[string]error{"making a client for Events": events, "making a client for our own Node": herald, "making a client for Nodes": source} {
		if err == nil || !strings.HasPrefix(err.Error(), what+": ") {
			t.Errorf("got %v, want %q", err, what)
		}
	}
}
