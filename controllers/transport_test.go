package controllers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/test/apiserver"
)

// requests writes down what is asked of the API server, and in which language it
// answers.
type requests struct {
	next http.RoundTripper
	mu   sync.Mutex
	list []string
}

// spy returns the agent's config with a record of its requests.
func spy(t *testing.T) (*requests, *rest.Config) {
	r := &requests{}
	config := rest.CopyConfig(apiserver.Start(t).Reader)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		r.next = next
		return r
	})
	return r, config
}

// RoundTrip passes a request on.
func (r *requests) RoundTrip(q *http.Request) (*http.Response, error) {
	answer, err := r.next.RoundTrip(q)
	if err == nil {
		r.mu.Lock()
		r.list = append(r.list, fmt.Sprintf("%s?%s -> %d %s", q.URL.Path, q.URL.RawQuery, answer.StatusCode, answer.Header.Get("Content-Type")))
		r.mu.Unlock()
	}
	return answer, err
}

func (r *requests) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

func (r *requests) with(words ...string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, line := range r.list {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// A server streams the list where it can; where it can't, it is listed. Both
// speak protobuf, and end in the same routes.
func TestStreamAndList(t *testing.T) {
	for name, stream := range map[string]bool{"stream": true, "list": false} {
		t.Run(name, func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, stream)
			api := useNodes(t)
			api.Add(node1(), peer(2), newNode("node3", "10.244.3.0/24", "192.168.1.13", "bogus"))
			requests, config := spy(t)
			a := startAgent(t, agentOptions{config: config})
			a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
			a.eventually(a.ready)
			a.eventually(a.metricIs(1, "plainroute_watch_established", nil)) // all is asked for
			if got := requests.with("sendInitialEvents=true", "watch=true") == 1; got != stream {
				t.Errorf("streamed is %t, want %t: %q", got, stream, requests.all())
			}
			if got := requests.with("/api/v1/nodes") - requests.with("watch=true"); got != map[bool]int{true: 0, false: 1}[stream] {
				t.Errorf("there were %d lists: %q", got, requests.all())
			}
			if all, proto := requests.with(""), requests.with("application/vnd.kubernetes.protobuf"); all != proto {
				t.Errorf("not all is protobuf: %q", requests.all())
			}
			api.Add(peer(4))
			a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3), peerRoute(4)))
			api.EditStatus("node4", func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.168.1.44" })
			api.Remove("node2")
			a.eventually(a.hasRoutes(peerRoute(3), "10.244.4.0/24 via 192.168.1.44"))
		})
	}
}

// A server that answers in JSON nevertheless can't be watched. The agent lists its Nodes again and
// again, so that changes arrive later.
func TestJSONOnly(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	config := rest.CopyConfig(apiserver.Start(t).Reader)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return jsonOnly{next} })
	a := startAgent(t, agentOptions{config: config})
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.ready)
	api.Add(peer(3))
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
}

type jsonOnly struct{ next http.RoundTripper }

func (j jsonOnly) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	q.Header.Set("Accept", "application/json")
	return j.next.RoundTrip(q)
}

// Nodes that the selector matches are left out, also when a label comes or goes.
func TestIgnoreNodes(t *testing.T) {
	api := useNodes(t)
	virtual := peer(3)
	virtual.Labels = map[string]string{"type": "virtual-kubelet"}
	api.Add(node1(), peer(2), virtual)
	a := startAgent(t, agentOptions{ignore: "type=virtual-kubelet"})
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.ready)
	a.eventually(a.sees("node1", "node2"))

	api.Edit("node2", func(n *corev1.Node) { n.Labels = map[string]string{"type": "virtual-kubelet"} })
	api.Edit("node3", func(n *corev1.Node) { n.Labels = nil })
	a.eventually(a.hasRoutes(peerRoute(3)))
	a.eventually(a.sees("node1", "node3"))
	a.settle()
	before := a.passes()
	api.Edit("node2", func(n *corev1.Node) { n.Labels["beat"] = "1" })
	api.Remove("node2")
	api.Add(peer(4))
	a.eventually(a.hasRoutes(peerRoute(3), peerRoute(4)))
	a.settle() // routes are there before their pass has ended
	if got := a.passes() - before; got != 1 {
		t.Errorf("changes of an ignored Node made %d passes", got-1)
	}
}
