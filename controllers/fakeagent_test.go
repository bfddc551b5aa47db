package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"

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
	for name, end := range map[string]func(*fakeServer){
		"it ends":  func(f *fakeServer) { f.cut() },
		"an error": func(f *fakeServer) { f.say(watch.Error, expired()); f.cut() },
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

// expired is the answer to a version that the server has compacted.
func expired() *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: http.StatusGone}
}

// Before the first list the report says why there is none.
func TestNoListYet(t *testing.T) {
	for name, stream := range map[string]bool{"stream": true, "list": false} {
		t.Run(name, func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, stream)
			f := newFakeServer(t, node1(), peer(2))
			f.refuses(func(*http.Request) int { return http.StatusForbidden })
			a := startAgent(t, agentOptions{config: f.config})
			a.eventually(a.notReady("APIUnavailable", "refused by the test"))
			if api := a.nodes.API(); api.Synced || !strings.Contains(api.Error, "refused by the test") || !api.Heard.IsZero() {
				t.Errorf("the API is %+v", api)
			}
			f.refuses(func(q *http.Request) int { // it can be listed, and not watched
				if q.URL.Query().Get("watch") == "true" {
					return http.StatusForbidden
				}
				return 0
			})
			a.eventually(a.ready)
			a.eventually(func() error {
				if api := a.nodes.API(); !api.Synced || !strings.Contains(api.Error, "refused by the test") || api.Heard.IsZero() || !a.nodes.View().Cached {
					return fmt.Errorf("the API is %+v", api)
				}
				return nil
			})
			f.refuses(nil)
			a.eventually(func() error { return a.nodes.View().Err })
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
			f.say(watch.Error, expired())
			f.cut()
			a.eventually(func() error { // the next one is not older than the first, or streamed
				if a.nodes.View().Cached {
					return errors.New("the list is from the cache")
				}
				return nil
			})
		})
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

// Where thousands of agents may ask at once, each waits twelve times as long.
func TestManyAgentsAskSeldom(t *testing.T) {
	if got := asksIn(t, manyNodes, time.Second); got != 1 { // the second one is due after 0.2 to 0.4 s, or twelve times that
		t.Errorf("in a second it asked %d times", got)
	}
}

// In a small cluster agents ask again soon: for the third time after 1.2 s at most.
func TestFewAgentsAskSoon(t *testing.T) {
	for range 5 { // others may have had the machine meanwhile
		if asksIn(t, 1, 2*time.Second) >= 3 {
			return
		}
	}
	t.Error("in two seconds it has not asked three times")
}

// asksIn returns how often an agent asks for a watch in a time, which a server with so many Nodes refuses. Three are enough.
func asksIn(t *testing.T, nodes int, d time.Duration) int {
	t.Helper()
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, false)
	f := newFakeServer(t)
	for i := range nodes {
		f.nodes[fmt.Sprint(i)] = apiNode(newNode(fmt.Sprint(i)))
	}
	f.refuses(func(q *http.Request) int {
		if q.URL.Query().Get("watch") == "true" {
			return http.StatusTooManyRequests
		}
		return 0
	})
	a := newAgent(t, agentOptions{config: f.config})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { a.nodes.Run(ctx, func() {}); close(done) }()
	asked := func() int { return len(f.requests("watch=true")) }
	for end := time.Now().Add(limit); asked() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for end := time.Now().Add(d); asked() < 3 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	return asked()
}
