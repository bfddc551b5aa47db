package nodes

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"

	"github.com/plainroute/plainroute/test/apiserver"
)

// A quorum read finds the Nodes that the view lacks, or has an older one of, on all pages.
func TestComparisonByAFakeServer(t *testing.T) {
	nodes := []*corev1.Node{apiserver.Node1(), apiserver.Peer(2), apiserver.NewNode("bare", "192.168.1.99"), apiserver.Peer(4), apiserver.Peer(5)}
	f := apiserver.NewFake(t, nodes...)
	ignored := apiserver.Peer(6)
	ignored.Labels = map[string]string{"type": "virtual-kubelet"}
	f.Create(ignored)
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
			s := sourceOf(t, f, labels.SelectorFromSet(labels.Set{"type": "virtual-kubelet"}))
			var items []any
			for _, n := range f.Nodes() {
				w := wire(n.DeepCopy())
				if n.Name == c.name && c.edit == nil {
					continue
				}
				if n.Name == c.name {
					c.edit(w)
				}
				items = append(items, w)
			}
			if err := s.Replace(items, ""); err != nil {
				t.Fatal(err)
			}
			err := s.compare(t.Context())
			if s.Health().LastContact.IsZero() {
				t.Error("an answer is no sign of the server")
			}
			if (err != nil) != (c.blame != "") || err != nil && !strings.Contains(err.Error(), "has Node "+c.blame+",") {
				t.Errorf("the view lacks %s: %v", what, err)
			}
		})
	}
	if got := f.Requests("resourceVersion"); len(got) > 0 {
		t.Errorf("these are no quorum reads: %q", got)
	}
	f.Refuse(func(*http.Request) int { return http.StatusForbidden })
	s := sourceOf(t, f, nil)
	if err := s.compare(t.Context()); err == nil || !strings.Contains(err.Error(), "listing Nodes to confirm") || s.Health().LastContact != (time.Time{}) {
		t.Errorf("refused, it says %v", err)
	}
}

// Among thousands of Nodes, each agent waits twelve times as long between attempts.
func TestBackoffAmongManyNodes(t *testing.T) {
	if got := asksIn(t, manyNodes, time.Second); got != 1 { // the second one is due after 0.2 to 0.4 s, or twelve times that
		t.Errorf("in a second it asked %d times", got)
	}
}

// In a small cluster the third attempt comes after 1.2 s at most.
func TestBackoffAmongFewNodes(t *testing.T) {
	for range 5 { // others may have had the machine meanwhile
		if asksIn(t, 1, 2*time.Second) >= 3 {
			return
		}
	}
	t.Error("in two seconds it has not asked three times")
}

// asksIn returns how many watches a Source requests in a time, up to three, from a server that has so many Nodes and refuses
// each.
func asksIn(t *testing.T, nodes int, d time.Duration) int {
	t.Helper()
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, false)
	f := apiserver.NewFake(t)
	for i := range nodes {
		f.Create(apiserver.NewNode(fmt.Sprint(i)))
	}
	f.Refuse(func(q *http.Request) int {
		if q.URL.Query().Get("watch") == "true" {
			return http.StatusTooManyRequests
		}
		return 0
	})
	s := sourceOf(t, f, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx, func() {}); close(done) }()
	asked := func() int { return len(f.Requests("watch=true")) }
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

// sourceOf returns a Source of a fake API server, which does not run.
func sourceOf(t *testing.T, f *apiserver.Fake, ignore labels.Selector) *Source {
	t.Helper()
	s, err := New(f.Config, ignore)
	if err != nil {
		t.Fatal(err)
	}
	s.notify = func() {}
	return s
}
