package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/nodestatus"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// minRetryWait is how long Writer waits after each attempt.
const minRetryWait = time.Second

// recordedWriter is a Writer that records the state that passes pass on.
type recordedWriter struct {
	*nodestatus.Writer
	own atomic.Pointer[nodes.OwnState]
}

// Update records the state.
func (w *recordedWriter) Update(ready bool, own *nodes.OwnState) {
	w.own.Store(own)
	w.Writer.Update(ready, own)
}

// available returns an error unless the network of node1 is marked as available, by plainroute.
func (n clusterNodes) available() error {
	if c := apiserver.NetworkCondition(n.Read("node1")); c == nil || c.Status != corev1.ConditionFalse || c.Reason != topology.ConditionReason {
		return fmt.Errorf("the condition is %+v", c)
	}
	return nil
}

func (n clusterNodes) untainted() error { return n.Untainted(apiserver.StartupTaint) }

// TestWriter follows our Node from its registration, with a server that streams lists and
// one that does not.
func TestWriter(t *testing.T) {
	for name, stream := range map[string]bool{"streamed": true, "listed": false} {
		t.Run(name, func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, stream)
			api := useNodes(t)
			api.Add(apiserver.Tainted(), peer(2))
			before := api.Read("node1")
			patches, config := countPatches(api.TestUser(t, apiserver.MayPatch("nodes/status"), apiserver.MayPatch("nodes")))
			a := startAgent(t, agentOptions{
				config: config, writer: true,
				host: func(h *memoryHost) { h.refusedFacts = errors.New("not yet") },
			})
			a.eventually(a.notReady("KernelFailed"))
			if got := api.Read("node1"); !reflect.DeepEqual(got.Status, before.Status) || !reflect.DeepEqual(got.Spec, before.Spec) {
				t.Errorf("not ready, it changed the Node to %+v", got)
			}
			begin := time.Now()
			a.host.disturb(func() { a.host.refusedFacts = nil })
			a.eventually(api.available)
			a.eventually(api.untainted)
			api.onlyPatched(before)
			a.eventually(a.seesAvailable)
			told := patches.Load()
			if most := 3 + int64(2*time.Since(begin)/minRetryWait); told > most { // two, and more where news are late
				t.Errorf("%d patches, want %d at most", told, most)
			}
			time.Sleep(minRetryWait + minRetryWait/2)
			if got := patches.Load(); got > told {
				t.Errorf("%d patches, although all was told after %d", got, told)
			}

			api.EditStatus("node1", func(n *corev1.Node) {
				n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeNetworkUnavailable })
			})
			a.eventually(api.available)
			api.Remove("node1")
			a.eventually(a.notReady("NodeMissing"))
			api.Add(apiserver.Tainted())
			a.eventually(api.available)
			a.eventually(api.untainted)
			a.eventually(a.ready)
		})
	}
}

// seesAvailable returns an error until a pass has seen the network of our Node marked as available, and no startup taint.
func (a *agent) seesAvailable() error {
	s := a.writer.own.Load()
	if s == nil || s.NetworkUnavailable != corev1.ConditionFalse || slices.ContainsFunc(s.Taints, func(t nodes.Taint) bool { return t.Key == apiserver.StartupTaint }) {
		return fmt.Errorf("our Node is known as %+v", s)
	}
	return nil
}

// onlyPatched fails unless the Node is as before but for the patches of Writer.
func (n clusterNodes) onlyPatched(before *corev1.Node) {
	n.t.Helper()
	after := n.Read("node1")
	for _, object := range []*corev1.Node{before, after} {
		object.ResourceVersion, object.ManagedFields = "", nil
		*apiserver.NetworkCondition(object) = corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable}
		object.Spec.Taints = slices.DeleteFunc(object.Spec.Taints, func(t corev1.Taint) bool { return t.Key == apiserver.StartupTaint })
	}
	if !reflect.DeepEqual(before, after) {
		n.t.Errorf("the Node was\n%+v\nand is\n%+v", before, after)
	}
}

// A False of another writer is as good as ours. Heartbeats lead neither to a pass nor to a
// patch, and a later fault does not revert the condition.
func TestWriterKeepsWhatIsRight(t *testing.T) {
	api := useNodes(t)
	own := apiserver.Tainted()
	own.Status.Conditions[1].Status, own.Status.Conditions[1].Reason = corev1.ConditionFalse, "RouteCreated"
	api.Add(own)
	patches, config := countPatches(api.TestUser(t, apiserver.MayPatch("nodes/status"), apiserver.MayPatch("nodes")))
	a := startAgent(t, agentOptions{config: config, writer: true})
	a.eventually(a.ready)
	a.eventually(api.untainted)
	a.eventually(a.seesAvailable)
	pass := a.settled()
	for i := range 5 {
		api.EditStatus("node1", func(n *corev1.Node) {
			n.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(time.Now().Add(time.Duration(i) * time.Second))
		})
	}
	time.Sleep(time.Second)
	if now := a.latest.Last().Pass.Number; now != pass {
		t.Errorf("heartbeats made %d passes", now-pass)
	}
	a.host.disturb(func() { a.host.refusedFacts = errors.New("broken") })
	a.eventually(a.notReady("KernelFailed"))
	time.Sleep(time.Second)
	if c := apiserver.NetworkCondition(api.Read("node1")); c.Status != corev1.ConditionFalse || c.Reason != "RouteCreated" {
		t.Errorf("the condition is %+v", c)
	}
	if got := patches.Load(); got != 1 {
		t.Errorf("%d patches, want that of the taint alone", got)
	}
}

// settled waits until there are no more passes and returns the last one's number.
func (a *agent) settled() int64 {
	for {
		n := a.latest.Last().Pass.Number
		time.Sleep(300 * time.Millisecond)
		if a.latest.Last().Pass.Number == n {
			return n
		}
	}
}

// countPatches counts the patches of a client.
func countPatches(config *rest.Config) (*atomic.Int64, *rest.Config) {
	count := &atomic.Int64{}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(q *http.Request) (*http.Response, error) {
			if q.Method == http.MethodPatch {
				count.Add(1)
			}
			return next.RoundTrip(q)
		})
	})
	return count, config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// Without the rights this node is ready as well, reports the missing rights, and waits
// longer after each attempt.
func TestWriterIsRefused(t *testing.T) {
	api := useNodes(t)
	api.Add(apiserver.Tainted())
	config := api.TestUser(t)
	patches, counted := countPatches(config)
	a := startAgent(t, agentOptions{config: counted, writer: true})
	a.eventually(a.ready)
	for _, want := range [][]string{
		{"setting the condition NetworkUnavailable=False of our Node", "cannot patch resource", "nodes/status", "leave --node-condition and --startup-taint out"},
		{"removing the taint " + apiserver.StartupTaint, "cannot patch resource", "leave --node-condition and --startup-taint out"},
	} {
		a.eventually(func() error { return a.hasDetail(problem.NodeUpdateFailed, want...) })
	}
	time.Sleep(4 * time.Second) // attempts at 0, 1 and 3 s
	if got := patches.Load(); got > 8 {
		t.Errorf("%d patches in 4 s", got)
	}
	if got := a.log.with("Problem", "NodeUpdateFailed"); len(got) != 2 {
		t.Errorf("want one line in the log for each, got %q", got)
	}
	a.eventually(a.ready)
	api.Allow(t, apiserver.MayPatch("nodes/status"), apiserver.MayPatch("nodes"))
	a.eventually(api.available)
	a.eventually(api.untainted)
	a.eventually(func() error {
		if a.hasDetail(problem.NodeUpdateFailed) == nil {
			return errors.New("the Problem is still told")
		}
		return nil
	})
}

// hasDetail returns an error unless there is a Problem of the reason that contains, or its remediation, all of the words
// and does not block readiness.
func (a *agent) hasDetail(reason problem.Reason, words ...string) error {
	for _, p := range a.latest.Last().Problems {
		if p.Reason == reason && !p.BlocksReady && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(p.Line(0, 1<<20), w) }) {
			return nil
		}
	}
	return fmt.Errorf("no %s with %q", reason, words)
}

// Other writers change the taints at the same time; none of their changes is lost.
func TestStartupTaintAmongOthers(t *testing.T) {
	api := useNodes(t)
	api.Add(node1())
	a := startAgent(t, agentOptions{config: api.TestUser(t, apiserver.MayPatch("nodes/status"), apiserver.MayPatch("nodes")), writer: true})
	a.eventually(a.ready)
	for i := range 10 {
		api.change("node1", func(n *corev1.Node) {
			n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == apiserver.StartupTaint })
			n.Spec.Taints = append([]corev1.Taint{{Key: apiserver.StartupTaint, Effect: corev1.TaintEffectNoSchedule}}, n.Spec.Taints...)
		})
		for j := range 5 {
			api.change("node1", func(n *corev1.Node) {
				n.Spec.Taints = append([]corev1.Taint{{Key: fmt.Sprintf("other-%d-%d", i, j), Effect: corev1.TaintEffectNoSchedule}}, n.Spec.Taints...)
			})
		}
		if i == 0 { // once is enough to wait for: later attempts pause
			a.eventually(api.untainted)
		}
	}
	got := map[string]bool{}
	for _, t := range api.Read("node1").Spec.Taints {
		got[t.Key] = true
	}
	for i := range 10 {
		for j := range 5 {
			if key := fmt.Sprintf("other-%d-%d", i, j); !got[key] {
				t.Errorf("%s is lost", key)
			}
		}
	}
}

// change is Edit that retries after conflicts.
func (n clusterNodes) change(name string, edit func(*corev1.Node)) {
	n.t.Helper()
	for range 50 {
		node := n.Read(name)
		edit(node)
		_, err := n.Update(context.Background(), node, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			n.t.Fatal(err)
		}
	}
	n.t.Fatal("another writer changes the Node before each attempt")
}
