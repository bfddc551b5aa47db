package controllers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/topology"
)

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
	for name, c := range map[string]heraldCase{
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
			got := c.try(t)
			if len(got) > 0 {
				heraldedNow(t, got[0])
			}
			if len(got) != c.requests || c.requests > 0 && (!strings.HasPrefix(got[0], condition) || got[1] != taints) {
				t.Errorf("it asked %q", got)
			}
		})
	}
}

// A heraldCase is how our own Node stands, and what a server answers.
type heraldCase struct {
	node     *corev1.Node // nil: there is none
	ready    bool
	code     int
	requests int
	trouble  string // in each of the Problems; empty: there is none
	wait     time.Duration
}

// try returns what a Herald asked for.
func (c heraldCase) try(t *testing.T) []string {
	t.Helper()
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
	problems := h.problems()
	c.check(t, problems)
	if news != len(problems) {
		t.Errorf("passes were asked for %d times", news)
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
	return got
}

func (c heraldCase) check(t *testing.T, problems []topology.Problem) {
	t.Helper()
	if len(problems) != 2 && c.trouble != "" || len(problems) != 0 && c.trouble == "" {
		t.Errorf("the problems are %v", problems)
	}
	for _, p := range problems {
		if p.Node != "node1" || p.Reason != topology.NodeUpdateFailed || p.Own || !strings.Contains(p.Detail, c.trouble) || strings.Contains(p.Detail, "leave out --") != (c.code == http.StatusForbidden) {
			t.Errorf("it says %v", p)
		}
	}
}

// heraldedNow fails unless the patch of the condition has the present as its transition time.
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
