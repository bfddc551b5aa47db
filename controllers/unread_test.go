package controllers

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// notInitialized is what a kubelet writes while containerd has loaded no CNI config.
const notInitialized = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"

func readyCondition(status corev1.ConditionStatus, message string) []corev1.NodeCondition {
	return []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: "KubeletNotReady", Message: message}}
}

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

// The runtime gets its time to load a config, and the Problem goes with its cause.
func TestUnreadConfig(t *testing.T) {
	clock := &stepClock{now: time.Unix(1e9, 0)}
	u := &unreadConfig{now: clock.read}
	conf := &topology.CNI{Bridge: "plainroute0"}
	written := &status.Result{Known: true, Desired: topology.State{CNI: conf}}
	without := &standing{noNetwork: true}
	expect := func(what string, result *status.Result, s *standing, problems int, wait time.Duration) {
		t.Helper()
		got, again := u.look(result, s, "/etc/cni/net.d/10-plainroute.conflist")
		if len(got) != problems || again != wait {
			t.Errorf("%s: got %v and a wait of %s, want %d problems and %s", what, got, again, problems, wait)
		}
	}
	expect("no Node", written, nil, 0, 0)
	expect("a Node with a network", written, &standing{}, 0, 0)
	expect("at first", written, without, 0, unreadAfter)
	clock.step(unreadAfter / 3)
	expect("soon", written, without, 0, unreadAfter*2/3)
	clock.step(unreadAfter)
	expect("after it has lasted", written, without, 1, 0)
	expect("with a network again", written, &standing{}, 0, 0)
	expect("without it again", written, without, 0, unreadAfter)
	clock.step(unreadAfter)
	for what, result := range map[string]*status.Result{
		"nothing known":         {Desired: topology.State{CNI: conf}},
		"no config wanted":      {Known: true},
		"a config to write":     {Known: true, Desired: topology.State{CNI: conf}, Undone: plan.Of(plan.Add, plan.Config{CNI: conf})},
		"another fault of ours": {Known: true, Desired: topology.State{CNI: conf}, Problems: []topology.Problem{{Reason: topology.CNIConflict, Own: true}}},
	} {
		expect(what, result, without, 0, 0)
		expect(what+", over", written, without, 0, unreadAfter)
		clock.step(unreadAfter)
	}
}

// An agent hears from its own Node that the runtime has no pod network, by a server that can
// stream lists.
func TestRuntimeReadsAnotherFolder(t *testing.T) {
	api := useNodes(t)
	own := node1()
	own.Status.Conditions = readyCondition(corev1.ConditionFalse, notInitialized)
	api.create(own, peer(2))
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
	api.updateStatus("node1", func(n *corev1.Node) {
		n.Status.Conditions = readyCondition(corev1.ConditionTrue, "kubelet is posting ready status")
	})
	a.eventually(a.ready)
}

// Other causes of a Node that is not ready are not the runtime's network.
func TestNoNetworkIsToldByTheRuntime(t *testing.T) {
	for _, c := range []struct {
		status  corev1.ConditionStatus
		message string
		want    bool
	}{
		{corev1.ConditionFalse, notInitialized, true},
		{corev1.ConditionFalse, "[container runtime is down, " + notInitialized + "]", true},
		{corev1.ConditionFalse, "PLEG is not healthy: pleg was last seen active 3m0s ago", false},
		{corev1.ConditionUnknown, "Kubelet stopped posting node status.", false},
		{corev1.ConditionTrue, "kubelet is posting ready status", false},
	} {
		n := &corev1.Node{}
		n.Name, n.Status.Conditions = "node1", readyCondition(c.status, c.message)
		bytes, err := n.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		read := &wireNode{}
		if err := read.unmarshal(bytes, "node1"); err != nil {
			t.Fatal(err)
		}
		if got := standingOf(&read.Node).noNetwork; got != c.want {
			t.Errorf("%s, %s: no network %t, want %t", c.status, c.message, got, c.want)
		}
	}
}
