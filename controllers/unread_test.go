package controllers

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// stepClock is a clock that tests set.
type stepClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *stepClock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *stepClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// The runtime gets time to load a config, and the Problem goes with its cause.
func TestUnreadConfig(t *testing.T) {
	clock := &stepClock{now: time.Unix(1e9, 0)}
	u := &unreadConfig{now: clock.read}
	conf := &topology.CNI{Bridge: "plainroute0"}
	written := &status.Result{Known: true, Desired: topology.State{CNI: conf}}
	without := &nodes.OwnState{NoNetwork: true}
	expect := func(what string, result *status.Result, own *nodes.OwnState, problems int, wait time.Duration) {
		t.Helper()
		got, again := u.problem(result, own, "/etc/cni/net.d/10-plainroute.conflist")
		if len(got) != problems || again != wait {
			t.Errorf("%s: got %v and a wait of %s, want %d problems and %s", what, got, again, problems, wait)
		}
	}
	expect("no Node", written, nil, 0, 0)
	expect("a Node with a network", written, &nodes.OwnState{}, 0, 0)
	expect("at first", written, without, 0, unreadAfter)
	clock.step(unreadAfter / 3)
	expect("soon", written, without, 0, unreadAfter*2/3)
	clock.step(unreadAfter)
	expect("after it has lasted", written, without, 1, 0)
	expect("with a network again", written, &nodes.OwnState{}, 0, 0)
	expect("without it again", written, without, 0, unreadAfter)
	clock.step(unreadAfter)
	for what, result := range map[string]*status.Result{
		"nothing known":         {Desired: topology.State{CNI: conf}},
		"no config wanted":      {Known: true},
		"a config to write":     {Known: true, Desired: topology.State{CNI: conf}, Undone: plan.Of(plan.Add, plan.Config{CNI: conf})},
		"another fault of ours": {Known: true, Desired: topology.State{CNI: conf}, Problems: []problem.Problem{{Reason: problem.CNIConflict, BlocksReady: true}}},
	} {
		expect(what, result, without, 0, 0)
		expect(what+", over", written, without, 0, unreadAfter)
		clock.step(unreadAfter)
	}
}

// An agent learns from its own Node that the runtime has no pod network, with a server that
// streams lists.
func TestRuntimeReadsAnotherFolder(t *testing.T) {
	api := useNodes(t)
	own := node1()
	own.Status.Conditions = apiserver.ReadyCondition(corev1.ConditionFalse, apiserver.NotInitialized)
	api.Add(own, peer(2))
	clock := &stepClock{now: time.Now()}
	a := startAgent(t, agentOptions{clock: clock.read})
	a.eventually(a.ready)
	clock.step(unreadAfter)
	a.host.disturb(func() {})
	a.eventually(a.notReady("CNIUnread", "NetworkPluginNotReady", "/etc/cni/net.d/10-plainroute.conflist"))
	a.eventually(func() error {
		if code, body := a.get("/readyz?verbose"); code != http.StatusServiceUnavailable || !strings.Contains(body, "[-]cni-read failed: CNIUnread") {
			return fmt.Errorf("readyz is %d %s", code, body)
		}
		return nil
	})
	api.EditStatus("node1", func(n *corev1.Node) {
		n.Status.Conditions = apiserver.ReadyCondition(corev1.ConditionTrue, "kubelet is posting ready status")
	})
	a.eventually(a.ready)
}

// The Problem is there at the very end of the wait: after a wait of 0 no other pass follows.
func TestUnreadConfigAtTheEndOfItsWait(t *testing.T) {
	clock := &stepClock{now: time.Unix(1e9, 0)}
	u := &unreadConfig{now: clock.read}
	written := &status.Result{Known: true, Desired: topology.State{CNI: &topology.CNI{Bridge: "plainroute0"}}}
	look := func() (int, time.Duration) {
		problems, wait := u.problem(written, &nodes.OwnState{NoNetwork: true}, "")
		return len(problems), wait
	}
	if n, wait := look(); n != 0 || wait != unreadAfter {
		t.Errorf("at first there are %d problems and a wait of %s", n, wait)
	}
	clock.step(unreadAfter)
	if n, wait := look(); n != 1 || wait != 0 {
		t.Errorf("at the end there are %d problems and a wait of %s", n, wait)
	}
}

// A Result starts with the outcome of the last pass, and refers to the history of this agent.
func TestResultStartsWithTheLast(t *testing.T) {
	latest := &status.Latest{}
	latest.Publish(&status.Result{Known: true})
	r := &NodeReconciler{Version: "1", Latest: latest, Nodes: &memoryNodes{}}
	if got := r.begin().result; got.History != &r.Latest.History || !got.Known || got.Version != "1" {
		t.Errorf("got %+v", got)
	}
}
