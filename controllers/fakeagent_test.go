package controllers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// An agent follows a server, by a stream of Nodes or a list of them, from the first one on.
func TestAgentByAFakeServer(t *testing.T) {
	for name, stream := range map[string]bool{"stream": true, "list": false} {
		t.Run(name, func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, stream)
			blind := node1()
			blind.Status.Conditions = readyCondition(corev1.ConditionFalse, notInitialized)
			f := newFakeServer(t, blind, peer(2))
			begin := time.Now()
			a := startAgent(t, agentOptions{config: f.config})
			a.eventually(a.hasRoutes(peerRoute(2)))
			a.eventually(a.ready)
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
			view := a.nodes.View()
			if view.Cached == stream || view.standing == nil || !view.standing.noNetwork || view.Heard.Before(begin.Truncate(0)) || view.Err != nil {
				t.Errorf("the view is %+v, our own Node stands as %+v", view, view.standing)
			}
			first := f.requests("")[0]
			if strings.Contains(first, "sendInitialEvents=true") != stream || strings.Contains(first, "resourceVersion=0") == stream {
				t.Errorf("the first request is %q", first)
			}
			f.create(peer(3))
			a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
			f.remove("node2")
			a.eventually(a.hasRoutes(peerRoute(3)))
			a.settle()
			before, heard := a.passes(), a.nodes.View().Heard
			f.create(peer(3)) // a heartbeat
			a.eventually(func() error {
				if now := a.nodes.View().Heard; !now.After(heard) {
					return fmt.Errorf("heard of at %s, and before at %s", now, heard)
				}
				return nil
			})
			f.create(newNode("node1", "10.244.1.0/24", "fd00:10:244:1::/64", "192.168.1.11", "fd00:192:168:1::11"))
			a.eventually(func() error {
				if s := a.nodes.View().standing; s == nil || s.noNetwork {
					return fmt.Errorf("our own Node stands as %+v", s)
				}
				return nil
			})
			a.settle()
			if got := a.passes() - before; got > 1 {
				t.Errorf("a heartbeat and news of our own Node made %d passes", got)
			}
		})
	}
}

// A watch that ends, in whatever way, is opened again, and what happened meanwhile arrives.
func TestWatchIsOpenedAgain(t *testing.T) {
	gone := &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: http.StatusGone}
	for name, end := range map[string]func(*fakeServer){
		"it ends":  func(f *fakeServer) { f.cut() },
		"an error": func(f *fakeServer) { f.say(watch.Error, gone); f.cut() },
		"nonsense": func(f *fakeServer) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.watchers[0].frames <- []byte("\x7f\xff\xff\xff")
		},
		"no answers": func(f *fakeServer) {
			f.refuses(func(*http.Request) int { return http.StatusServiceUnavailable })
			f.cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t, node1(), peer(2))
			a := startAgent(t, agentOptions{config: f.config})
			a.eventually(a.ready)
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
			end(f)
			if name == "no answers" {
				a.eventually(a.metricIs(0, "plainroute_watch_established", nil))
				a.eventually(func() error {
					if err := a.nodes.View().Err; err == nil {
						return errors.New("the view has no error")
					}
					return nil
				})
				a.eventually(a.ready)
				f.refuses(nil)
			}
			f.create(peer(3))
			a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
			a.eventually(func() error { return a.nodes.View().Err })
		})
	}
}

// Before the first list the report says why there is none.
func TestNoListYet(t *testing.T) {
	f := newFakeServer(t, node1(), peer(2))
	f.refuses(func(*http.Request) int { return http.StatusForbidden })
	a := startAgent(t, agentOptions{config: f.config})
	a.eventually(a.notReady("APIUnavailable", "refused by the test"))
	if api := a.nodes.API(); api.Synced || !strings.Contains(api.Error, "refused by the test") || !api.Heard.IsZero() {
		t.Errorf("the API is %+v", api)
	}
	f.refuses(nil)
	a.eventually(a.ready)
	if api := a.nodes.API(); !api.Synced || api.Error != "" || api.Heard.IsZero() {
		t.Errorf("the API is %+v", api)
	}
}

// What a quorum read finds that the view lacks, or has an older one of.
func TestComparisonByAFakeServer(t *testing.T) {
	nodes := []*corev1.Node{node1(), peer(2), newNode("bare", "192.168.1.99"), peer(4), peer(5)}
	f := newFakeServer(t, nodes...)
	ignored := peer(6)
	ignored.Labels = map[string]string{"type": "virtual-kubelet"}
	f.create(ignored)
	same := func(*wireNode) {}
	for what, c := range map[string]struct {
		name  string
		edit  func(*wireNode) // nil: the view lacks it
		blame string
	}{
		"nothing":                       {"", same, ""},
		"a Node of the first page":      {"bare", nil, "bare"},
		"a Node of the last page":       {"node5", nil, "node5"},
		"that a Node was made again":    {"node2", func(n *wireNode) { n.UID = "older" }, "node2"},
		"a subnet given since":          {"bare", func(n *wireNode) { n.ResourceVersion = "0" }, "bare"},
		"no heartbeat of a Node":        {"node2", func(n *wireNode) { n.ResourceVersion = "0" }, ""},
		"that a subnet was given since": {"node2", func(n *wireNode) { n.Spec = corev1.NodeSpec{}; n.ResourceVersion = "0" }, "node2"},
	} {
		t.Run(what, func(t *testing.T) {
			a := newAgent(t, agentOptions{config: f.config, ignore: "type=virtual-kubelet"})
			a.nodes.notify = func() {}
			var items []any
			for _, n := range f.nodes {
				w := wire(n.DeepCopy())
				if n.Name == c.name && c.edit == nil {
					continue
				}
				if n.Name == c.name {
					c.edit(w)
				}
				items = append(items, w)
			}
			if err := a.nodes.Replace(items, ""); err != nil {
				t.Fatal(err)
			}
			err := a.nodes.compare(t.Context())
			if a.nodes.API().Heard.IsZero() {
				t.Error("an answer is no sign of the server")
			}
			if (err != nil) != (c.blame != "") || err != nil && !strings.Contains(err.Error(), "has Node "+c.blame+",") {
				t.Errorf("the view lacks %s: %v", what, err)
			}
		})
	}
	if got := f.requests("resourceVersion"); len(got) > 0 {
		t.Errorf("these are no quorum reads: %q", got)
	}
	f.refuses(func(*http.Request) int { return http.StatusForbidden })
	a := newAgent(t, agentOptions{config: f.config})
	if err := a.nodes.compare(t.Context()); err == nil || !strings.Contains(err.Error(), "listing Nodes to confirm") || a.nodes.API().Heard != (time.Time{}) {
		t.Errorf("refused, it says %v", err)
	}
}

// A comparison that fails is made again, and there is a pass once one agrees.
func TestConfirmationByAFakeServer(t *testing.T) {
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, false)
	f := newFakeServer(t, node1(), peer(2))
	names := func(q *http.Request) bool {
		return strings.Contains(q.Header.Get("Accept"), "PartialObjectMetadataList")
	}
	f.refuses(func(q *http.Request) int {
		if names(q) {
			return http.StatusForbidden
		}
		return 0
	})
	a := startAgent(t, agentOptions{config: f.config, host: leaveBehind(9)})
	a.eventually(a.ready)
	a.eventually(func() error {
		for _, p := range a.problems("") {
			if p.Reason == topology.PruneHeld && strings.Contains(p.Detail, "refused by the test") {
				return nil
			}
		}
		a.host.disturb(func() {})
		return fmt.Errorf("the problems are %v", a.problems(""))
	})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(9)))
	f.refuses(nil)
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.noProblems)
}

// A Herald patches our own Node where it is ready and something is to be told, and each pass is told how that went.
func TestHeraldByAFakeServer(t *testing.T) {
	all := tainted()
	all.UID = "u1"
	fine := node1()
	fine.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse}}
	fine.Spec.Taints = []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}
	const taints = `PATCH /api/v1/nodes/node1 timeout=10s application/json-patch+json [` +
		`{"op":"test","path":"/metadata/uid","value":"u1"},` +
		`{"op":"test","path":"/spec/taints/3/key","value":"example.com/network-not-ready"},{"op":"test","path":"/spec/taints/3/effect","value":"NoExecute"},{"op":"remove","path":"/spec/taints/3"},` +
		`{"op":"test","path":"/spec/taints/1/key","value":"example.com/network-not-ready"},{"op":"test","path":"/spec/taints/1/effect","value":"NoSchedule"},{"op":"remove","path":"/spec/taints/1"}]`
	const condition = `PATCH /api/v1/nodes/node1/status timeout=10s application/strategic-merge-patch+json {"metadata":{"uid":"u1"},"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","lastHeartbeatTime":`
	for name, c := range map[string]struct {
		node     *corev1.Node // nil: there is none
		ready    bool
		code     int
		requests int
		trouble  string // in each of the Problems; empty: there is none
		wait     time.Duration
	}{
		"not ready":        {all, false, 0, 0, "", 0},
		"no Node":          {nil, true, 0, 0, "", 0},
		"nothing to tell":  {fine, true, 0, 0, "", 0},
		"both":             {all, true, 0, 2, "", firstPause},
		"the Node is gone": {all, true, http.StatusNotFound, 2, "", firstPause},
		"forbidden":        {all, true, http.StatusForbidden, 2, "refused by the test", firstPause},
		"it has changed":   {all, true, http.StatusUnprocessableEntity, 2, "", firstPause},
		"a server fails":   {all, true, http.StatusInternalServerError, 2, "refused by the test", firstPause},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t)
			f.refuses(func(*http.Request) int { return c.code })
			a := newSingle(t, agentOptions{})
			h, err := NewHerald(f.config, "node1", true, startup)
			if err != nil {
				t.Fatal(err)
			}
			news := 0
			h.notify = func() { news++ }
			var s *standing
			if c.node != nil {
				s = standingOf(c.node)
			}
			h.tell(c.ready, s)
			if wait := h.round(t.Context()); wait != c.wait {
				t.Errorf("it looks again after %s", wait)
			}
			got := f.requests("")
			if len(got) > 0 {
				heraldedNow(t, got[0])
			}
			if len(got) != c.requests || c.requests > 0 && (!strings.HasPrefix(got[0], condition) || got[1] != taints) {
				t.Errorf("it asked %q", got)
			}
			problems := h.problems()
			if len(problems) != 2 && c.trouble != "" || len(problems) != 0 && c.trouble == "" || news != len(problems) {
				t.Errorf("the problems are %v, and passes were asked for %d times", problems, news)
			}
			for _, p := range problems {
				if p.Node != "node1" || p.Reason != topology.NodeUpdateFailed || p.Own || !strings.Contains(p.Detail, c.trouble) || strings.Contains(p.Detail, "leave out --") != (c.code == http.StatusForbidden) {
					t.Errorf("it says %v", p)
				}
			}
			if got := len(a.log.with("Patched our Node")); got != c.requests && c.code == 0 || got > 0 && c.code != 0 {
				t.Errorf("the log says %q", a.log.with())
			}
			h.round(t.Context())
			if again := f.requests(""); len(again) != len(got) {
				t.Errorf("at once it asked again: %q", again[len(got):])
			}
			h.tell(false, s) // nothing is wrong where nothing is to be told
			h.round(t.Context())
			if got := h.problems(); len(got) > 0 || news != 2*len(problems) {
				t.Errorf("not ready, it says %v, after %d news", got, news)
			}
		})
	}
}

// heraldedNow fails unless a patch of the condition says that it holds since now.
func heraldedNow(t *testing.T, request string) {
	t.Helper()
	_, body, _ := strings.Cut(request, "strategic-merge-patch+json ")
	var node corev1.Node
	if err := json.Unmarshal([]byte(body), &node); err != nil {
		t.Fatal(err)
	}
	for _, at := range []metav1.Time{condition(&node).LastHeartbeatTime, condition(&node).LastTransitionTime} {
		if age := time.Since(at.Time); age < 0 || age > time.Minute {
			t.Errorf("the condition is of %s", at)
		}
	}
}

// A taint that is the first or the only one is taken away as well, and those of others are left alone.
func TestTaintsOfOthersAreLeft(t *testing.T) {
	f := newFakeServer(t)
	h, err := NewHerald(f.config, "node1", false, startup)
	if err != nil {
		t.Fatal(err)
	}
	h.notify = func() {}
	h.tell(true, &standing{uid: "u1", taints: []taint{{"other", corev1.TaintEffectNoSchedule}}})
	h.round(t.Context())
	if got := f.requests(""); len(got) > 0 {
		t.Errorf("it asked %q", got)
	}
	h.tell(true, &standing{uid: "u1", taints: []taint{{startup, corev1.TaintEffectNoSchedule}}})
	h.round(t.Context())
	if got := f.requests("/metadata/uid", `{"op":"remove","path":"/spec/taints/0"}`); len(got) != 1 || strings.Count(got[0], "remove") != 1 {
		t.Errorf("it asked %q", f.requests(""))
	}
}

// A running agent has its Herald tell what is, and its Events tell what is wrong.
func TestHeraldAndEventsOfAFakeServer(t *testing.T) {
	f := newFakeServer(t, tainted(), peer(2))
	events := newTeller(t, f.config)
	a := startAgent(t, agentOptions{config: f.config, herald: true, events: events.Events})
	a.eventually(a.ready)
	a.eventually(func() error {
		if n := len(f.requests("PATCH")); n < 2 {
			return fmt.Errorf("%d patches", n)
		}
		return nil
	})
	f.refuses(func(q *http.Request) int {
		if q.Method == http.MethodPatch {
			return http.StatusForbidden
		}
		return 0
	})
	a.eventually(func() error {
		return a.saysOf(topology.NodeUpdateFailed, "removing the taint", "leave out --startup-taint")
	})
	a.eventually(func() error {
		return a.saysOf(topology.NodeUpdateFailed, "NetworkUnavailable", "leave out --node-condition")
	})
	well := node1()
	well.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse}}
	f.refuses(nil)
	f.create(well)
	a.eventually(a.noProblems)
	a.eventually(events.lacks(topology.NodeUpdateFailed))

	a.host.disturb(func() { a.host.refusedFacts = errors.New("no such device") })
	a.eventually(events.knows(topology.KernelFailed))
	told := func(want ...string) func() error {
		return func() error {
			if got := f.told(); !slices.Equal(got, want) {
				return fmt.Errorf("the Events are %q, want %q", got, want)
			}
			return nil
		}
	}
	events.forward(2 * time.Minute)
	a.eventually(told("Warning KernelFailed x1"))
	a.host.disturb(func() { a.host.refusedFacts = nil })
	a.eventually(a.ready)
	a.eventually(events.lacks(topology.KernelFailed))
	events.forward(time.Minute)
	events.forward(2 * time.Minute)
	a.eventually(told("Normal PodNetworkReady x1", "Warning KernelFailed x1"))
}

// What is told again counts up the Event that is there, whoever made it, and makes it anew if it is forgotten.
func TestEventsByAFakeServer(t *testing.T) {
	f := newFakeServer(t)
	s := newSingle(t, agentOptions{})
	again := func() *Events {
		e, err := NewEvents(f.config, "node1")
		if err != nil {
			t.Fatal(err)
		}
		e.now, e.agenda = s.clock.read, newAgenda(func() float64 { return 0 })
		e.faults = map[topology.Reason]string{topology.CNIConflict: "05-other"}
		return e
	}
	var e *Events
	failures := 0
	refuse := func(method string) func(*http.Request) int {
		return func(q *http.Request) int {
			if q.Method == method {
				return http.StatusForbidden
			}
			return 0
		}
	}
	for _, c := range []struct {
		what  string
		do    func()
		wait  time.Duration // after the look at first
		asked string        // methods
		told  []string
	}{
		{"nothing may be told", func() { e = again(); f.refuses(refuse(http.MethodPost)) }, firstDelay, "POST", nil},
		{"a fault", func() { f.refuses(nil) }, tellAgain, "POST", []string{"Warning CNIConflict x1"}},
		{"it lasts", func() {}, tellAgain, "PATCH", []string{"Warning CNIConflict x2"}},
		{"and lasts", func() {}, tellAgain, "PATCH", []string{"Warning CNIConflict x3"}},
		{"the agent is another", func() { e = again() }, tellAgain, "POST PATCH PATCH", []string{"Warning CNIConflict x4"}},
		{"and lasts", func() {}, tellAgain, "PATCH", []string{"Warning CNIConflict x5"}},
		{"another agent, which may change nothing", func() { e = again(); f.refuses(refuse(http.MethodPatch)) }, firstDelay, "POST PATCH", []string{"Warning CNIConflict x5"}},
		{"and it may", func() { f.refuses(nil) }, tellAgain, "POST PATCH PATCH", []string{"Warning CNIConflict x6"}},
		{"the server answers nonsense", func() { f.refuses(func(*http.Request) int { return nonsense }) }, firstDelay, "PATCH", []string{"Warning CNIConflict x6"}},
		{"the server forgets, and takes no Event", func() { f.forget(); f.refuses(refuse(http.MethodPost)) }, 2 * firstDelay, "PATCH POST", nil},
		{"the server forgets", func() { f.forget(); f.refuses(nil) }, tellAgain, "PATCH POST", []string{"Warning CNIConflict x1"}},
		{"and lasts", func() {}, tellAgain, "PATCH", []string{"Warning CNIConflict x2"}},
		{"the server refuses", func() { f.refuses(func(*http.Request) int { return http.StatusForbidden }) }, firstDelay, "PATCH", []string{"Warning CNIConflict x2"}},
		{"again", func() {}, 2 * firstDelay, "PATCH", []string{"Warning CNIConflict x2"}},
		{"it takes Events", func() { f.refuses(nil) }, tellAgain, "PATCH", []string{"Warning CNIConflict x3"}},
		{"in other words", func() { e.faults = map[topology.Reason]string{topology.CNIConflict: "06-other"} }, tellAgain - quietTime, "POST", []string{"Warning CNIConflict x1", "Warning CNIConflict x3"}},
	} {
		before := len(f.requests(""))
		c.do()
		e.round(t.Context())
		s.clock.step(quietTime)
		wait := e.round(t.Context())
		var asked []string
		for _, r := range f.requests("")[before:] {
			method, _, _ := strings.Cut(r, " ")
			asked = append(asked, method)
		}
		if n := len(s.log.with("Event not told")); c.wait == firstDelay && n != failures+1 {
			t.Errorf("%s: the log says it %d times", c.what, n)
		}
		failures = len(s.log.with("Event not told"))
		if got := strings.Join(asked, " "); got != c.asked || !slices.Equal(f.told(), c.told) || wait != c.wait {
			t.Errorf("%s: %s made %q, next after %s", c.what, got, f.told(), wait)
		}
		s.clock.step(wait - quietTime)
	}
	var lines []string
	for _, line := range s.log.with("Event") {
		lines = append(lines, timeOfLine.ReplaceAllString(line, ""))
	}
	if want := []string{
		`"Event not told" reason=CNIConflict error="refused by the test"`, `"Events are told again" lost=1`,
		`"Event not told" reason=CNIConflict error="refused by the test"`, `"Events are told again" lost=1`,
		`"Event not told" reason=CNIConflict error="reading an Event: invalid character 'o' in literal null (expecting 'u')"`, `"Events are told again" lost=2`,
		`"Event not told" reason=CNIConflict error="refused by the test"`, `"Events are told again" lost=2`,
	}; !slices.Equal(lines, want) {
		t.Errorf("the log says %q", lines)
	}
	e.faults = nil
	e.ready = true
	e.round(t.Context())
	s.clock.step(quietTime)
	e.round(t.Context())
	if got := f.told(); got[0] != "Normal PodNetworkReady x1" {
		t.Errorf("the Events are %q", got)
	}
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
