package controllers

import (
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

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/apiserver"
)

// An agent follows a server, by a stream of Nodes or a list of them, from the first one on.
func TestAgentByAFakeServer(t *testing.T) {
	for name, stream := range map[string]bool{"stream": true, "list": false} {
		t.Run(name, func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, stream)
			blind := node1()
			blind.Status.Conditions = apiserver.ReadyCondition(corev1.ConditionFalse, apiserver.NotInitialized)
			f := apiserver.NewFake(t, blind, peer(2))
			begin := time.Now()
			a := startAgent(t, agentOptions{config: f.Config})
			a.eventually(a.hasRoutes(peerRoute(2)))
			a.eventually(a.ready)
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
			view := a.nodes.peek()
			if view.Cached == stream || view.Own == nil || !view.Own.NoNetwork || view.LastContact.Before(begin.Truncate(0)) || view.Err != nil {
				t.Errorf("the view is %+v, our own Node stands as %+v", view, view.Own)
			}
			first := f.Requests("")[0]
			if strings.Contains(first, "sendInitialEvents=true") != stream || strings.Contains(first, "resourceVersion=0") == stream {
				t.Errorf("the first request is %q", first)
			}
			f.Create(peer(3))
			a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
			f.Remove("node2")
			a.eventually(a.hasRoutes(peerRoute(3)))
			a.settle()
			before, heard := a.passes(), a.nodes.peek().LastContact
			f.Create(peer(3)) // a heartbeat
			a.eventually(func() error {
				if now := a.nodes.peek().LastContact; !now.After(heard) {
					return fmt.Errorf("heard of at %s, and before at %s", now, heard)
				}
				return nil
			})
			f.Create(newNode("node1", "10.244.1.0/24", "fd00:10:244:1::/64", "192.168.1.11", "fd00:192:168:1::11"))
			a.eventually(func() error {
				if s := a.nodes.peek().Own; s == nil || s.NoNetwork {
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
	for name, end := range map[string]func(*apiserver.Fake){
		"it ends":  func(f *apiserver.Fake) { f.Cut() },
		"an error": func(f *apiserver.Fake) { f.Send(watch.Error, expired()); f.Cut() },
		"nonsense": func(f *apiserver.Fake) {
			f.SendRaw([]byte("\x7f\xff\xff\xff"))
		},
		"no answers": func(f *apiserver.Fake) {
			f.Refuse(func(*http.Request) int { return http.StatusServiceUnavailable })
			f.Cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := apiserver.NewFake(t, node1(), peer(2))
			a := startAgent(t, agentOptions{config: f.Config})
			a.eventually(a.ready)
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
			end(f)
			if name == "no answers" {
				a.eventually(a.metricIs(0, "plainroute_watch_established", nil))
				a.eventually(func() error {
					if err := a.nodes.peek().Err; err == nil {
						return errors.New("the view has no error")
					}
					return nil
				})
				a.eventually(a.ready)
				f.Refuse(nil)
				a.eventually(a.metricIs(1, "plainroute_watch_established", nil)) // a Fake sends nothing that was before the watch
			}
			f.Create(peer(3))
			a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
			a.eventually(func() error { return a.nodes.peek().Err })
		})
	}
}

// expired is the answer to a version that the server has compacted.
func expired() *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: http.StatusGone}
}

// Before the first list the report has the reason why there is none.
func TestNoListYet(t *testing.T) {
	for name, stream := range map[string]bool{"stream": true, "list": false} {
		t.Run(name, func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, stream)
			f := apiserver.NewFake(t, node1(), peer(2))
			f.Refuse(func(*http.Request) int { return http.StatusForbidden })
			a := startAgent(t, agentOptions{config: f.Config})
			a.eventually(a.notReady("APIUnavailable", "refused by the test"))
			if api := APIStatus(a.nodes.Health()); api.Synced || !strings.Contains(api.Error, "refused by the test") || !api.LastEvent.IsZero() {
				t.Errorf("the API is %+v", api)
			}
			f.Refuse(func(q *http.Request) int { // it can be listed, and not watched
				if q.URL.Query().Get("watch") == "true" {
					return http.StatusForbidden
				}
				return 0
			})
			a.eventually(a.ready)
			a.eventually(func() error {
				if api := APIStatus(a.nodes.Health()); !api.Synced || !strings.Contains(api.Error, "refused by the test") || api.LastEvent.IsZero() || !a.nodes.peek().Cached {
					return fmt.Errorf("the API is %+v", api)
				}
				return nil
			})
			f.Refuse(nil)
			a.eventually(func() error { return a.nodes.peek().Err })
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil))
			f.Send(watch.Error, expired())
			f.Cut()
			a.eventually(func() error { // the next one is not older than the first, or streamed
				if a.nodes.peek().Cached {
					return errors.New("the list is from the cache")
				}
				return nil
			})
		})
	}
}

// A comparison that fails is made again, and there is a pass once one agrees.
func TestConfirmationByAFakeServer(t *testing.T) {
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, false)
	f := apiserver.NewFake(t, node1(), peer(2))
	names := func(q *http.Request) bool {
		return strings.Contains(q.Header.Get("Accept"), "PartialObjectMetadataList")
	}
	f.Refuse(func(q *http.Request) int {
		if names(q) {
			return http.StatusForbidden
		}
		return 0
	})
	a := startAgent(t, agentOptions{config: f.Config, host: leaveBehind(9)})
	a.eventually(a.ready)
	a.eventually(func() error {
		for _, p := range a.problems("") {
			if p.Reason == problem.PruneHeld && strings.Contains(p.Message, "refused by the test") {
				return nil
			}
		}
		a.host.disturb(func() {})
		return fmt.Errorf("the problems are %v", a.problems(""))
	})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(9)))
	f.Refuse(nil)
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.noProblems)
}
