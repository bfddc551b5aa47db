package nodes

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/test/apiserver"
)

// run runs a Source until the returned function is called, which returns its saved view.
func run(t *testing.T, config *rest.Config, from *Saved) (s *Source, stop func() *Saved) {
	t.Helper()
	s, err := New(config, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Own = "node1"
	if from != nil {
		v, err := Decode(encoded(t, from), from.Identity, from.Time)
		if err != nil {
			t.Fatal(err)
		}
		s.Restore(v)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { s.Run(ctx, func() {}); close(ended) }()
	stop = func() *Saved {
		cancel()
		<-ended
		return s.Saved()
	}
	t.Cleanup(func() { stop() })
	return s, stop
}

// eventually waits until the view is as it should be.
func eventually(t *testing.T, s *Source, what string, ok func(View) bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(s.View()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not, with %d Nodes, cached %t, error %v", what, len(s.View().Nodes), s.View().Cached, s.View().Err)
		}
	}
}

func has(want ...string) func(View) bool {
	return func(v View) bool { return slices.Equal(names(v), want) }
}

func caughtUp(v View) bool { return !v.Cached }

// beat changes a Node as a kubelet does.
func beat(api *apiserver.Nodes, name string) {
	api.EditStatus(name, func(n *corev1.Node) {
		n.Status.Conditions = []corev1.NodeCondition{{Type: "Ready", Status: "True", LastHeartbeatTime: metav1.Now()}}
	})
}

// A restart where nothing has changed costs one answer with one Node's metadata, and a watch.
func TestRestartWithoutAList(t *testing.T) {
	api := apiserver.Use(t)
	api.Add(apiserver.Node1())
	large := strings.Repeat("x", 4000) // as the images and managed fields of a real Node
	for i := range 300 {
		n := apiserver.NewNode(fmt.Sprintf("peer%03d", i), fmt.Sprintf("10.245.%d.%d/28", i/16, i%16*16), fmt.Sprintf("192.168.%d.%d", 2+i/250, 1+i%250))
		n.Annotations = map[string]string{"example.com/large": large}
		api.Add(n)
	}
	gate, config := apiserver.NewGate(t, api.Reader)
	config.DisableCompression = true // as the agent does
	gate.Open()
	s, stop := run(t, config, nil)
	eventually(t, s, "the list", func(v View) bool { return len(v.Nodes) == 301 })
	saved, listed := stop(), gate.Sent()

	s, stop = run(t, config, saved)
	if v := s.View(); !v.Synced || !v.Cached || len(v.Nodes) != 301 || v.Own == nil {
		t.Fatalf("restored are %d Nodes, synced %t, cached %t, ours %v", len(v.Nodes), v.Synced, v.Cached, v.Own)
	}
	eventually(t, s, "the watch", func(v View) bool { return v.Watching })
	beat(api, "peer000")
	eventually(t, s, "the view is current", caughtUp)
	took := gate.Sent() - listed
	t.Logf("the start took %d bytes, the restart %d", listed, took)
	if took > 100_000 || listed < 10*took {
		t.Errorf("the start took %d bytes, the restart %d", listed, took)
	}
	if again := stop(); len(again.Nodes) != 301 || !reached(again.ResourceVersion, saved.ResourceVersion) || again.ResourceVersion == saved.ResourceVersion {
		t.Errorf("saved again are %d Nodes at %s, before at %s", len(again.Nodes), again.ResourceVersion, saved.ResourceVersion)
	}
}

// What changed while the agent was away comes by the watch, and until then nothing is current.
func TestChangesWhileAway(t *testing.T) {
	api := apiserver.Use(t)
	api.Add(apiserver.Node1(), apiserver.Peer(2), apiserver.Peer(3), apiserver.NewNode("node4"))
	gate, config := apiserver.NewGate(t, api.Reader)
	gate.Open()
	s, stop := run(t, config, nil)
	eventually(t, s, "the list", has("node1", "node2", "node3", "node4"))
	saved := stop()
	gate.Shut()

	api.Remove("node2")
	api.EditStatus("node3", func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.168.1.33" })
	api.Edit("node4", func(n *corev1.Node) { n.Spec = apiserver.Peer(4).Spec })
	api.Add(apiserver.Peer(5))
	s, _ = run(t, config, saved)
	eventually(t, s, "the API server is missed", func(v View) bool { return v.Err != nil })
	if v := s.View(); !v.Cached || !has("node1", "node2", "node3", "node4")(v) {
		t.Errorf("without an API server there are %q, cached %t, error %v", names(v), v.Cached, v.Err)
	}
	gate.Open()
	eventually(t, s, "the changes", has("node1", "node3", "node4", "node5"))
	for _, n := range s.View().Nodes {
		if n.Name == "node3" && n.Addrs[0].String() != "192.168.1.33" || n.Name == "node4" && len(n.PodCIDRs) != 1 {
			t.Errorf("%s has %v %v", n.Name, n.PodCIDRs, n.Addrs)
		}
	}
	beat(api, "node5")
	eventually(t, s, "the view is current", caughtUp)
	if s.View().Grants != nil {
		t.Error("the grants are still there")
	}
}

// A quorum read confirms a restored view too, in a cluster where nothing else happens.
func TestRestoredViewIsConfirmed(t *testing.T) {
	api := apiserver.Use(t)
	api.Add(apiserver.Node1(), apiserver.Peer(2))
	s, stop := run(t, api.Reader, nil)
	eventually(t, s, "the list", has("node1", "node2"))
	s, _ = run(t, api.Reader, stop())
	s.Confirm(time.Now())
	eventually(t, s, "the view is confirmed", caughtUp)
}

// A server that was restored from an older backup is listed: a watch from a version that it has not reached is silent.
func TestSavedVersionIsAhead(t *testing.T) {
	api := apiserver.Use(t)
	api.Add(apiserver.Node1(), apiserver.Peer(2))
	s, stop := run(t, api.Reader, nil)
	eventually(t, s, "the list", has("node1", "node2"))
	saved := stop()
	saved.ResourceVersion = "9" + saved.ResourceVersion
	api.Add(apiserver.Peer(3))
	s, _ = run(t, api.Reader, saved)
	eventually(t, s, "the list", has("node1", "node2", "node3"))
	eventually(t, s, "the view is current", caughtUp)
}

// A server that has forgotten the version is listed: one that was restarted remembers nothing from before.
func TestSavedVersionIsForgotten(t *testing.T) {
	plane := apiserver.ControlPlaneForTest(t, apiserver.Options{})
	for _, n := range []*corev1.Node{apiserver.Node1(), apiserver.Peer(2)} {
		if _, err := plane.Client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s, stop := run(t, plane.Config, nil)
	eventually(t, s, "the list", has("node1", "node2"))
	saved := stop()
	if err := plane.Client.CoreV1().Nodes().Delete(t.Context(), "node2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := plane.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := plane.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := plane.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	var streams atomic.Int32
	config := rest.CopyConfig(plane.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(q *http.Request) (*http.Response, error) {
			if q.URL.Query().Get("sendInitialEvents") == "true" {
				streams.Add(1)
			}
			return next.RoundTrip(q)
		})
	})
	s, _ = run(t, config, saved)
	eventually(t, s, "the list", has("node1"))
	eventually(t, s, "the view is current", caughtUp)
	if n := streams.Load(); n != 1 {
		t.Errorf("the Nodes were listed %d times", n)
	}
}

// roundTripper is an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return r(q) }

// fakeSaved is the view of a Source of a fake server, which then does what refuse says.
func fakeSaved(t *testing.T, refuse func(*http.Request) int) (*apiserver.Fake, *Source) {
	t.Helper()
	f := apiserver.NewFake(t, apiserver.Node1(), apiserver.Peer(2))
	s, stop := run(t, f.Config, nil)
	eventually(t, s, "the list", has("node1", "node2"))
	saved := stop()
	f.Refuse(refuse)
	s, _ = run(t, f.Config, saved)
	return f, s
}

// listedAgain counts the requests for whole Nodes, beyond the first.
func listedAgain(f *apiserver.Fake) int {
	streams, lists := len(f.Requests("sendInitialEvents=true")), 0
	for _, q := range f.Requests("GET /api/v1/nodes") {
		if !strings.Contains(q, "watch=true") && !strings.HasSuffix(q, "limit=1") {
			lists++
		}
	}
	return streams + lists - 1
}

// The answers of a server that end in a list.
func TestRefusedWatchLeadsToAList(t *testing.T) {
	for _, code := range []int{http.StatusGone, http.StatusInternalServerError, http.StatusForbidden, http.StatusBadRequest} {
		refused := false
		f, s := fakeSaved(t, func(q *http.Request) int {
			if first := q.URL.Query().Get("watch") == "true" && !refused; first {
				refused = true
				return code
			}
			return 0
		})
		eventually(t, s, "a list", caughtUp)
		if got := listedAgain(f); got != 1 {
			t.Errorf("after %d it listed %d times: %q", code, got, f.Requests())
		}
	}
}

// A server that sends the watch's answer and then that it has forgotten the version, as real ones do.
func TestExpiredWatchLeadsToAList(t *testing.T) {
	f, s := fakeSaved(t, nil)
	eventually(t, s, "the watch", func(v View) bool { return v.Watching })
	f.Send(watch.Error, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired,
	})
	eventually(t, s, "a list", caughtUp)
	if got := listedAgain(f); got != 1 {
		t.Errorf("it listed %d times: %q", got, f.Requests())
	}
}

// Where the version is not known by the first answer, or the answer can't be read, there is a list.
func TestNonsenseLeadsToAList(t *testing.T) {
	f, s := fakeSaved(t, func(q *http.Request) int {
		if q.URL.Query().Get("limit") == "1" {
			return apiserver.Nonsense
		}
		return 0
	})
	eventually(t, s, "a list", caughtUp)
	if got := listedAgain(f); got != 1 {
		t.Errorf("it listed %d times: %q", got, f.Requests())
	}
}

// An event that is older than the server's Nodes at the start does not make the view current; a bookmark does. That holds for both
// ways to list.
func TestRestoredViewCatchesUp(t *testing.T) {
	for _, stream := range []bool{true, false} {
		t.Run(fmt.Sprintf("streamed %t", stream), func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, stream)
			f := apiserver.NewFake(t, apiserver.Node1(), apiserver.Peer(2))
			s, stop := run(t, f.Config, nil)
			eventually(t, s, "the list", has("node1", "node2"))
			saved := stop()
			f.Create(apiserver.Peer(3), apiserver.Peer(4)) // versions 3 and 4
			s, _ = run(t, f.Config, saved)
			eventually(t, s, "the watch", func(v View) bool { return v.Watching })
			event := func(kind watch.EventType, n *corev1.Node, version string) {
				n = apiserver.WithType(n)
				n.ResourceVersion = version
				f.Send(kind, n)
			}
			event(watch.Added, apiserver.Peer(3), "3")
			eventually(t, s, "the first event", has("node1", "node2", "node3"))
			if !s.View().Cached {
				t.Error("the view is taken to be current before the last event")
			}
			event(watch.Bookmark, &corev1.Node{}, "4")
			eventually(t, s, "the view is current", caughtUp)
			if got := listedAgain(f); got != 0 {
				t.Errorf("it listed %d times: %q", got, f.Requests())
			}
		})
	}
}

// Before the API server has sent Nodes there is nothing to save: the old file stays, with its time.
func TestNothingToSave(t *testing.T) {
	s, _ := newSource(t)
	s.Restore(savedView())
	if s.Saved() != nil {
		t.Error("a view is saved that no server has sent")
	}
}
