package nodestatus

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/apiserver"
)

// A Writer patches the Node of a ready node while a patch is needed, and asks for a pass when its Problems change.
func TestWriterByAFakeServer(t *testing.T) {
	all := apiserver.Tainted()
	all.UID = "u1"
	fine := apiserver.Node1()
	fine.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse}}
	fine.Spec.Taints = []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}
	const taints = `PATCH /api/v1/nodes/node1 timeout=10s application/json-patch+json [` +
		`{"op":"test","path":"/metadata/uid","value":"u1"},` +
		`{"op":"test","path":"/spec/taints/3/key","value":"example.com/network-not-ready"},{"op":"test","path":"/spec/taints/3/effect","value":"NoExecute"},{"op":"remove","path":"/spec/taints/3"},` +
		`{"op":"test","path":"/spec/taints/1/key","value":"example.com/network-not-ready"},{"op":"test","path":"/spec/taints/1/effect","value":"NoSchedule"},{"op":"remove","path":"/spec/taints/1"}]`
	const condition = `PATCH /api/v1/nodes/node1/status timeout=10s application/strategic-merge-patch+json {"metadata":{"uid":"u1"},"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","lastHeartbeatTime":`
	for name, c := range map[string]writerCase{
		"not ready":        {all, false, 0, 0, "", 0},
		"no Node":          {nil, true, 0, 0, "", 0},
		"nothing needed":   {fine, true, 0, 0, "", 0},
		"both":             {all, true, 0, 2, "", minRetryWait},
		"the Node is gone": {all, true, http.StatusNotFound, 2, "", minRetryWait},
		"forbidden":        {all, true, http.StatusForbidden, 2, "refused by the test", minRetryWait},
		"it has changed":   {all, true, http.StatusUnprocessableEntity, 2, "", minRetryWait},
		"a server fails":   {all, true, http.StatusInternalServerError, 2, "refused by the test", minRetryWait},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.try(t)
			if len(got) > 0 {
				transitionIsNow(t, got[0])
			}
			if len(got) != c.requests || c.requests > 0 && (!strings.HasPrefix(got[0], condition) || got[1] != taints) {
				t.Errorf("it asked %q", got)
			}
		})
	}
}

// A writerCase is the state of our own Node, and a server's answer.
type writerCase struct {
	node     *corev1.Node // nil: there is none
	ready    bool
	code     int
	requests int
	problem  string // in each of the Problems; empty: there is none
	wait     time.Duration
}

// try returns the requests of a Writer.
func (c writerCase) try(t *testing.T) []string {
	t.Helper()
	f := apiserver.NewFake(t)
	f.Refuse(func(*http.Request) int { return c.code })
	var logged bytes.Buffer
	ctx := logr.NewContext(t.Context(), logr.FromSlogHandler(slog.NewTextHandler(&logged, nil)))
	w, err := NewWriter(f.Config, "node1", true, apiserver.StartupTaint)
	if err != nil {
		t.Fatal(err)
	}
	news := 0
	w.notify = func() { news++ }
	var s *nodes.OwnState
	if c.node != nil {
		s = nodes.OwnStateFrom(c.node)
	}
	w.Update(c.ready, s)
	if wait := w.sync(ctx); wait != c.wait {
		t.Errorf("it looks again after %s", wait)
	}
	got := f.Requests("")
	problems := w.Problems()
	c.check(t, problems)
	if news != len(problems) {
		t.Errorf("passes were asked for %d times", news)
	}
	if got := strings.Count(logged.String(), "Patched our Node"); got != c.requests && c.code == 0 || got > 0 && c.code != 0 {
		t.Errorf("the log says %q", logged.String())
	}
	w.sync(ctx)
	if again := f.Requests(""); len(again) != len(got) {
		t.Errorf("at once it asked again: %q", again[len(got):])
	}
	w.Update(false, s) // there is no Problem while no patch is needed
	w.sync(ctx)
	if got := w.Problems(); len(got) > 0 || news != 2*len(problems) {
		t.Errorf("not ready, it says %v, after %d news", got, news)
	}
	return got
}

func (c writerCase) check(t *testing.T, problems []problem.Problem) {
	t.Helper()
	if len(problems) != 2 && c.problem != "" || len(problems) != 0 && c.problem == "" {
		t.Errorf("the problems are %v", problems)
	}
	for _, p := range problems {
		if p.Node != "node1" || p.Reason != problem.NodeUpdateFailed || p.BlocksReady || !strings.Contains(p.Message, c.problem) || !strings.Contains(p.Complete().Remediation, "leave --node-condition and --startup-taint out") {
			t.Errorf("it says %v", p)
		}
	}
}

// transitionIsNow fails unless the patch of the condition has the current time.
func transitionIsNow(t *testing.T, request string) {
	t.Helper()
	_, body, _ := strings.Cut(request, "strategic-merge-patch+json ")
	var node corev1.Node
	if err := json.Unmarshal([]byte(body), &node); err != nil {
		t.Fatal(err)
	}
	for _, at := range []metav1.Time{apiserver.NetworkCondition(&node).LastHeartbeatTime, apiserver.NetworkCondition(&node).LastTransitionTime} {
		if age := time.Since(at.Time); age < 0 || age > time.Minute {
			t.Errorf("the condition is of %s", at)
		}
	}
}

// A taint that is the first or the only one is removed as well, and taints of other keys are kept.
func TestOtherTaintsAreKept(t *testing.T) {
	f := apiserver.NewFake(t)
	w, err := NewWriter(f.Config, "node1", false, apiserver.StartupTaint)
	if err != nil {
		t.Fatal(err)
	}
	w.notify = func() {}
	w.Update(true, &nodes.OwnState{UID: "u1", Taints: []nodes.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}})
	w.sync(t.Context())
	if got := f.Requests(""); len(got) > 0 {
		t.Errorf("it asked %q", got)
	}
	w.Update(true, &nodes.OwnState{UID: "u1", Taints: []nodes.Taint{{Key: apiserver.StartupTaint, Effect: corev1.TaintEffectNoSchedule}}})
	w.sync(t.Context())
	if got := f.Requests("/metadata/uid", `{"op":"remove","path":"/spec/taints/0"}`); len(got) != 1 || strings.Count(got[0], "remove") != 1 {
		t.Errorf("it asked %q", f.Requests(""))
	}
}
