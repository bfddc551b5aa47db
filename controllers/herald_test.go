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
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/topology"
)

const startup = "example.com/network-not-ready"

// heraldConfig is that of a user who may read Nodes and do what the rules say.
func heraldConfig(t *testing.T, rules ...rbacv1.PolicyRule) *rest.Config {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
	config, err := cluster.user(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.grant(name); err != nil {
		t.Fatal(err)
	}
	allow(t, name, rules...)
	return config
}

func allow(t *testing.T, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	roles := cluster.admin.RbacV1().ClusterRoles()
	role, err := roles.Get(context.Background(), name, metav1.GetOptions{})
	if err == nil {
		role.Rules = append(role.Rules, rules...)
		_, err = roles.Update(context.Background(), role, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mayPatch(resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"patch"}}
}

// tainted is our Node as a cloud registers it: not yet with a network.
func tainted() *corev1.Node {
	n := node1()
	n.Labels = map[string]string{"a": "b"}
	n.Spec.Taints = []corev1.Taint{
		{Key: "first", Effect: corev1.TaintEffectNoSchedule},
		{Key: startup, Effect: corev1.TaintEffectNoSchedule, Value: "x"},
		{Key: "second", Effect: corev1.TaintEffectNoExecute},
		{Key: startup, Effect: corev1.TaintEffectNoExecute},
	}
	n.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady"},
		{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: "NoRouteCreated"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
	}
	return n
}

// condition returns the Node's, nil: none.
func condition(n *corev1.Node) *corev1.NodeCondition {
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeNetworkUnavailable })
	if i < 0 {
		return nil
	}
	return &n.Status.Conditions[i]
}

// available wants the Node to count as one with a network, by our word.
func (n nodes) available() error {
	if c := condition(n.get("node1")); c == nil || c.Status != corev1.ConditionFalse || c.Reason != topology.ConditionReason {
		return fmt.Errorf("the condition is %+v", c)
	}
	return nil
}

// untainted wants the startup taint gone.
func (n nodes) untainted() error {
	for _, t := range n.get("node1").Spec.Taints {
		if t.Key == startup {
			return fmt.Errorf("the taints are %+v", n.get("node1").Spec.Taints)
		}
	}
	return nil
}

// TestHerald follows our Node from its registration, by a server that can stream
// lists and one that can't.
func TestHerald(t *testing.T) {
	for name, stream := range map[string]bool{"streamed": true, "listed": false} {
		t.Run(name, func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, stream)
			api := useNodes(t)
			api.create(tainted(), peer(2))
			before := api.get("node1")
			patches, config := countPatches(heraldConfig(t, mayPatch("nodes/status"), mayPatch("nodes")))
			a := startAgent(t, agentOptions{
				config: config, herald: true,
				host: func(h *memoryHost) { h.refusedFacts = errors.New("not yet") },
			})
			a.eventually(a.notReady("KernelFailed"))
			if got := api.get("node1"); !reflect.DeepEqual(got.Status, before.Status) || !reflect.DeepEqual(got.Spec, before.Spec) {
				t.Errorf("not ready, it changed the Node to %+v", got)
			}
			begin := time.Now()
			a.host.disturb(func() { a.host.refusedFacts = nil })
			a.eventually(api.available)
			a.eventually(api.untainted)
			api.onlyHeralded(before)
			a.eventually(a.knowsAllIsTold)
			told := patches.Load()
			if most := 3 + int64(2*time.Since(begin)/firstPause); told > most { // two, and more where news are late
				t.Errorf("%d patches, want %d at most", told, most)
			}
			time.Sleep(firstPause + firstPause/2)
			if got := patches.Load(); got > told {
				t.Errorf("%d patches, although all was told after %d", got, told)
			}

			api.updateStatus("node1", func(n *corev1.Node) {
				n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeNetworkUnavailable })
			})
			a.eventually(api.available)
			api.remove("node1")
			a.eventually(a.notReady("NodeMissing"))
			api.create(tainted())
			a.eventually(api.available)
			a.eventually(api.untainted)
			a.eventually(a.ready)
		})
	}
}

// knowsAllIsTold objects until the Herald knows that our Node counts as one with a network, and has no startup taint.
func (a *agent) knowsAllIsTold() error {
	h := a.loop.Herald
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.standing
	if s == nil || s.unavailable != corev1.ConditionFalse || slices.ContainsFunc(s.taints, func(t taint) bool { return t.key == startup }) {
		return fmt.Errorf("our Node is known as %+v", s)
	}
	return nil
}

// onlyHeralded fails unless the Node is as before but for what the Herald tells.
func (n nodes) onlyHeralded(before *corev1.Node) {
	n.t.Helper()
	after := n.get("node1")
	for _, object := range []*corev1.Node{before, after} {
		object.ResourceVersion, object.ManagedFields = "", nil
		*condition(object) = corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable}
		object.Spec.Taints = slices.DeleteFunc(object.Spec.Taints, func(t corev1.Taint) bool { return t.Key == startup })
	}
	if !reflect.DeepEqual(before, after) {
		n.t.Errorf("the Node was\n%+v\nand is\n%+v", before, after)
	}
}

// Somebody else's False is as good as ours, and heartbeats make neither a pass nor a
// patch, nor is a fault that comes later told as one of the network.
func TestHeraldLeavesWhatIsRight(t *testing.T) {
	api := useNodes(t)
	own := tainted()
	own.Status.Conditions[1].Status, own.Status.Conditions[1].Reason = corev1.ConditionFalse, "RouteCreated"
	api.create(own)
	patches, config := countPatches(heraldConfig(t, mayPatch("nodes/status"), mayPatch("nodes")))
	a := startAgent(t, agentOptions{config: config, herald: true})
	a.eventually(a.ready)
	a.eventually(api.untainted)
	a.eventually(a.knowsAllIsTold)
	pass := a.settled()
	for i := range 5 {
		api.updateStatus("node1", func(n *corev1.Node) {
			n.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(time.Now().Add(time.Duration(i) * time.Second))
		})
	}
	time.Sleep(time.Second)
	if now := a.board.Last().Pass.Number; now != pass {
		t.Errorf("heartbeats made %d passes", now-pass)
	}
	a.host.disturb(func() { a.host.refusedFacts = errors.New("broken") })
	a.eventually(a.notReady("KernelFailed"))
	time.Sleep(time.Second)
	if c := condition(api.get("node1")); c.Status != corev1.ConditionFalse || c.Reason != "RouteCreated" {
		t.Errorf("the condition is %+v", c)
	}
	if got := patches.Load(); got != 1 {
		t.Errorf("%d patches, want that of the taint alone", got)
	}
}

// settled waits until there are no more passes and returns the last one's number.
func (a *agent) settled() int64 {
	for {
		n := a.board.Last().Pass.Number
		time.Sleep(300 * time.Millisecond)
		if a.board.Last().Pass.Number == n {
			return n
		}
	}
}

// countPatches counts the requests of a client that would change something.
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

// Without the rights this node is ready all the same, says what is missing, and asks
// ever less often.
func TestHeraldIsRefused(t *testing.T) {
	api := useNodes(t)
	api.create(tainted())
	config := heraldConfig(t)
	patches, counted := countPatches(config)
	a := startAgent(t, agentOptions{config: counted, herald: true})
	a.eventually(a.ready)
	for _, want := range [][]string{
		{"setting the condition NetworkUnavailable=False of our Node", "cannot patch resource", "nodes/status", "leave out --node-condition"},
		{"removing the taint " + startup, "cannot patch resource", "leave out --startup-taint"},
	} {
		a.eventually(func() error { return a.saysOf(topology.NodeUpdateFailed, want...) })
	}
	time.Sleep(4 * time.Second) // attempts at 0, 1 and 3 s
	if got := patches.Load(); got > 8 {
		t.Errorf("%d patches in 4 s", got)
	}
	if got := a.log.with("Problem", "NodeUpdateFailed"); len(got) != 2 {
		t.Errorf("want one line in the log for each, got %q", got)
	}
	a.eventually(a.ready)
	allow(t, strings.ToLower(t.Name()), mayPatch("nodes/status"), mayPatch("nodes"))
	a.eventually(api.available)
	a.eventually(api.untainted)
	a.eventually(func() error {
		if a.saysOf(topology.NodeUpdateFailed) == nil {
			return errors.New("the Problem is still told")
		}
		return nil
	})
}

// saysOf wants a Problem of the reason that does not keep the node from being ready,
// with all of the words.
func (a *agent) saysOf(reason topology.Reason, words ...string) error {
	for _, p := range a.board.Last().Problems {
		if p.Reason == reason && !p.Own && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(p.Detail, w) }) {
			return nil
		}
	}
	return fmt.Errorf("no %s with %q", reason, words)
}

// Others change the taints at the same time; none of theirs is lost.
func TestStartupTaintAmongOthers(t *testing.T) {
	api := useNodes(t)
	api.create(node1())
	a := startAgent(t, agentOptions{config: heraldConfig(t, mayPatch("nodes/status"), mayPatch("nodes")), herald: true})
	a.eventually(a.ready)
	for i := range 10 {
		api.change("node1", func(n *corev1.Node) {
			n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == startup })
			n.Spec.Taints = append([]corev1.Taint{{Key: startup, Effect: corev1.TaintEffectNoSchedule}}, n.Spec.Taints...)
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
	for _, t := range api.get("node1").Spec.Taints {
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

// Of a Node that has changed since it was looked at, nothing is changed.
func TestStalePatches(t *testing.T) {
	api := useNodes(t)
	api.create(tainted())
	h, err := NewHerald(heraldConfig(t, mayPatch("nodes/status"), mayPatch("nodes")), "node1", true, startup)
	if err != nil {
		t.Fatal(err)
	}
	seen := standingOf(api.get("node1"))
	another := &standing{uid: "another", taints: seen.taints}
	api.update("node1", func(n *corev1.Node) { n.Spec.Taints = n.Spec.Taints[1:] })
	before := api.get("node1")
	for name, c := range map[string]struct {
		what proclamation
		of   *standing
	}{
		"taints that moved": {startupTaint(startup), seen}, "taints of another Node": {startupTaint(startup), another}, "condition of another Node": {networkAvailable{}, another},
	} {
		if err := h.patch(context.Background(), c.what, c.of); err == nil {
			t.Errorf("%s: done", name)
		}
		if after := api.get("node1"); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: the Node became %+v", name, after)
		}
	}
	if err := h.patch(context.Background(), startupTaint(startup), standingOf(before)); err != nil {
		t.Error(err)
	}
	if err := api.untainted(); err != nil {
		t.Error(err)
	}
}

// change is update that tries again if somebody was quicker.
func (n nodes) change(name string, edit func(*corev1.Node)) {
	n.t.Helper()
	for range 50 {
		node := n.get(name)
		edit(node)
		_, err := n.Update(context.Background(), node, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			n.t.Fatal(err)
		}
	}
	n.t.Fatal("somebody is always quicker")
}
