package nodestatus

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// An eventStory records the requests of an Events, the Events of the server after them, and the log.
type eventStory struct {
	t      *testing.T
	now    time.Time
	story  bytes.Buffer
	logged bytes.Buffer
	server *apiserver.Fake
	events *Events
	asked  int
}

// restart starts another Events, as a restarted agent does.
func (s *eventStory) restart() {
	s.t.Helper()
	e, err := NewEvents(s.server.Config, "node1")
	if err != nil {
		s.t.Fatal(err)
	}
	e.Now, e.schedule = func() time.Time { return s.now }, newSchedule(func() float64 { return 0 })
	e.problems = map[problem.Reason]string{problem.CNIConflict: "05-other"}
	s.events = e
}

// then lets the time pass until an Event is due, and settleTime more.
func (s *eventStory) then(what string) {
	s.t.Helper()
	ctx := logr.NewContext(s.t.Context(), logr.FromSlogHandler(slog.NewTextHandler(&s.logged, nil)))
	s.events.Sync(ctx)
	s.now = s.now.Add(settleTime)
	wait := s.events.Sync(ctx)
	s.now = s.now.Add(wait - settleTime)
	fmt.Fprintf(&s.story, "%s:", what)
	for _, r := range s.server.Requests("")[s.asked:] {
		method, _, _ := strings.Cut(r, " ")
		fmt.Fprintf(&s.story, " %s", method)
		s.asked++
	}
	fmt.Fprintf(&s.story, ", there are %q, next after %s\n", s.server.Events(), wait)
	for line := range strings.Lines(s.logged.String()) {
		_, line, _ = strings.Cut(line, " level=INFO msg=")
		fmt.Fprintf(&s.story, "log: %s", line)
	}
	s.logged.Reset()
}

// check fails unless the story is the content of testdata/events.txt.
func (s *eventStory) check() {
	s.t.Helper()
	const file = "testdata/events.txt"
	if *update {
		if err := os.WriteFile(file, s.story.Bytes(), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(s.story.String(), "\n")); diff != "" {
		s.t.Errorf("%s (-) and the story (+):\n%s", file, diff)
	}
}

// A repetition raises the count of the Event, also that of another agent, and creates it again if it was deleted.
func TestEventsByAFakeServer(t *testing.T) {
	f := apiserver.NewFake(t)
	s := &eventStory{t: t, now: time.Unix(1e9, 0), server: f}
	refuse := func(method string) {
		f.Refuse(func(q *http.Request) int {
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
		{"it may", func() { f.Refuse(nil) }},
		{"it lasts", func() {}},
		{"and lasts", func() {}},
		{"another agent", func() { s.restart() }},
		{"and lasts", func() {}},
		{"another agent, which may change nothing", func() { s.restart(); refuse(http.MethodPatch) }},
		{"and it may", func() { f.Refuse(nil) }},
		{"the server answers nonsense", func() { f.Refuse(func(*http.Request) int { return apiserver.Nonsense }) }},
		{"the server forgets, and takes no Event", func() { f.ForgetEvents(); refuse(http.MethodPost) }},
		{"it takes Events", func() { f.Refuse(nil) }},
		{"and lasts", func() {}},
		{"the server refuses", func() { refuse(http.MethodPatch) }},
		{"it takes Events", func() { f.Refuse(nil) }},
		{"in other words", func() { s.events.problems = map[problem.Reason]string{problem.CNIConflict: "06-other"} }},
		{"it is over", func() { s.events.problems, s.events.ready = nil, true }},
	} {
		c.do()
		s.then(c.what)
	}
	s.check()
}

// An Event is of events.k8s.io/v1 and regards our Node by its name; its own name is a hash of its content.
func TestEventOnTheWire(t *testing.T) {
	f := apiserver.NewFake(t)
	f.Config.ContentType, f.Config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	now := time.Unix(1e9, 123456000).UTC()
	for _, reason := range []problem.Reason{problem.CNIConflict, problem.PodNetworkReady} {
		e, err := NewEvents(f.Config, "node1")
		if err != nil {
			t.Fatal(err)
		}
		if at := e.Now(); time.Since(at) > time.Minute {
			t.Errorf("its clock says %s", at)
		}
		e.Now = func() time.Time { return now }
		for range 2 {
			if err := e.write(t.Context(), reason, &eventState{note: "a note"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	const head = `POST /apis/events.k8s.io/v1/namespaces/default/events timeout=10s  `
	const event = `{"kind":"Event","apiVersion":"events.k8s.io/v1","metadata":{"name":%q,"namespace":"default"},"eventTime":"2001-09-09T01:46:40.123456Z",` +
		`"reportingController":"plainroute","reportingInstance":"node1","action":"ServePods","reason":%q,` +
		`"regarding":{"kind":"Node","name":"node1","uid":"node1","apiVersion":"v1"},"note":"a note","type":%q,"deprecatedSource":{},"deprecatedFirstTimestamp":null,"deprecatedLastTimestamp":null}`
	const series = `PATCH /apis/events.k8s.io/v1/namespaces/default/events/%s timeout=10s application/merge-patch+json {"series":{"count":2,"lastObservedTime":"2001-09-09T01:46:40.123456Z"}}`
	conflict, ready := eventName("node1", problem.CNIConflict, "a note"), eventName("node1", problem.PodNetworkReady, "a note")
	for i, want := range map[int]string{
		0: head + fmt.Sprintf(event, conflict, "CNIConflict", "Warning"), 3: fmt.Sprintf(series, conflict), 4: head + fmt.Sprintf(event, ready, "PodNetworkReady", "Normal"),
	} {
		if got := f.Requests("")[i]; got != want {
			t.Errorf("it asked\n%s, want\n%s", got, want)
		}
	}
}

// A name is a subdomain of 253 bytes at most, and differs for each Node, reason and note.
func TestNamesOfEvents(t *testing.T) {
	const most, suffix = 253, 17 // a dot and 64 bits
	seen := map[string]bool{}
	for _, c := range []struct {
		node   string
		reason problem.Reason
		note   string
		kept   int // bytes of the Node's name
	}{
		{"node1", problem.CNIConflict, "a", 5},
		{"node1", problem.CNIConflict, "b", 5},
		{"node1", problem.CNIFailed, "a", 5},
		{"node2", problem.CNIFailed, "a", 5},
		{strings.Repeat("n", most-suffix), problem.CNIFailed, "a", most - suffix},
		{strings.Repeat("n", most-suffix+1), problem.CNIFailed, "a", most - suffix},
		{strings.Repeat("n", most-suffix-2) + ".-" + "n", problem.CNIFailed, "a", most - suffix - 2},
	} {
		name := eventName(c.node, c.reason, c.note)
		if !strings.HasPrefix(name, c.node[:c.kept]+".") || len(name) != c.kept+suffix || seen[name] {
			t.Errorf("the Event of %s is named %s", c.node, name)
		}
		seen[name] = true
	}
	if got := newEvent(strings.Repeat("n", 200), problem.CNIFailed, "a", time.Now()).ReportingInstance; len(got) != 128 {
		t.Errorf("the instance has %d bytes", len(got))
	}
}

// Update signals only what differs from the last one.
func TestUpdateSignalsChanges(t *testing.T) {
	f := apiserver.NewFake(t)
	e, err := NewEvents(f.Config, "node1")
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(f.Config, "node1", true, apiserver.StartupTaint)
	if err != nil {
		t.Fatal(err)
	}
	fault, other := problem.Problem{Reason: problem.CNIFailed, Message: "a", BlocksReady: true}, problem.Problem{Reason: problem.CNIFailed, Message: "b", BlocksReady: true}
	node := []*topology.Node{{}}
	taints := []nodes.Taint{{Key: apiserver.StartupTaint, Effect: corev1.TaintEffectNoSchedule}}
	for i, c := range []struct {
		result status.Result
		own    *nodes.OwnState
		events int
		writer int
	}{
		{status.Result{}, nil, 0, 0},
		{status.Result{Ready: true}, nil, 1, 1},
		{status.Result{Ready: true}, nil, 0, 0},
		{status.Result{Ready: true, Nodes: node}, &nodes.OwnState{}, 1, 1},
		{status.Result{Ready: true, Nodes: node}, &nodes.OwnState{}, 0, 0},
		{status.Result{Nodes: node, Problems: []problem.Problem{fault}}, &nodes.OwnState{UID: "1"}, 1, 1},
		{status.Result{Nodes: node, Problems: []problem.Problem{other}}, &nodes.OwnState{UID: "1", NetworkUnavailable: "True"}, 1, 1},
		{status.Result{Nodes: node, Problems: []problem.Problem{other}}, &nodes.OwnState{UID: "1", NetworkUnavailable: "True", Reason: "x"}, 0, 1},
		{status.Result{Nodes: node, Problems: []problem.Problem{other}}, &nodes.OwnState{UID: "1", NetworkUnavailable: "True", Reason: "x", NoNetwork: true}, 0, 1},
		{status.Result{Nodes: node, Problems: []problem.Problem{other}}, &nodes.OwnState{UID: "1", NetworkUnavailable: "True", Reason: "x", NoNetwork: true, Taints: taints}, 0, 1},
		{status.Result{Nodes: node, Problems: []problem.Problem{other}}, &nodes.OwnState{UID: "1", NetworkUnavailable: "True", Reason: "x", NoNetwork: true, Taints: slices.Clone(taints)}, 0, 0},
	} {
		e.Update(&c.result)
		w.Update(c.result.Ready, c.own)
		if len(e.news) != c.events || len(w.news) != c.writer {
			t.Errorf("step %d: news for Events %d, want %d; for the Writer %d, want %d", i, len(e.news), c.events, len(w.news), c.writer)
		}
		for _, news := range []chan struct{}{e.news, w.news} {
			select {
			case <-news:
			default:
			}
		}
	}
}

// An Event that is due later is written then, without an Update, and an idle Events does nothing.
func TestEventsAreWrittenWhenDue(t *testing.T) {
	f := apiserver.NewFake(t)
	e := newClockedEvents(t, f.Config)
	looks := atomic.Int64{}
	clock := e.Now
	e.Now = func() time.Time { looks.Add(1); return clock() }
	e.schedule = newSchedule(func() float64 { return 0 })
	go e.Run(t.Context())
	e.rest()
	before := looks.Load()
	time.Sleep(20 * time.Millisecond)
	if n := looks.Load() - before; n > 3 {
		t.Errorf("at rest it looked %d times", n)
	}
	e.Update(&status.Result{Problems: []problem.Problem{{Reason: problem.CNIFailed, Message: "a", BlocksReady: true}}})
	e.advance(settleTime - 100*time.Millisecond)
	for end := time.Now().Add(limit); len(f.Events()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a problem that lasts is not written")
		}
	}
}

// A config without a valid address is an error.
func TestNoClient(t *testing.T) {
	config := &rest.Config{Host: "http://a b"}
	_, events := NewEvents(config, "node1")
	_, writer := NewWriter(config, "node1", true, "")
	for what, err := range map[string]error{"making a client for Events": events, "making a client for our own Node": writer} {
		if err == nil || !strings.HasPrefix(err.Error(), what+": ") {
			t.Errorf("got %v, want %q", err, what)
		}
	}
}
