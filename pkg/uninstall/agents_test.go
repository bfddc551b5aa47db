package uninstall

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/test/apiserver"
)

// ofAgents is the metadata of an agents' object, whatever the release and its nameOverride are
// called.
func ofAgents(name string, deleted bool) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{Name: name, Namespace: "ours", Labels: map[string]string{
		nameLabel: "other", instanceLabel: "one", partOfLabel: "plainroute", componentLabel: "agent",
	}}
	if deleted {
		now := metav1.Now()
		meta.DeletionTimestamp, meta.Finalizers = &now, []string{"foregroundDeletion"}
	}
	return meta
}

func agentPod(deleted bool, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: ofAgents("agent-1", deleted), Spec: corev1.PodSpec{NodeName: "node-1"}, Status: corev1.PodStatus{Phase: phase}}
}

// Any object that runs agents is refused by name, unless it is being deleted.
func TestRefusesWhileAgentsRun(t *testing.T) {
	foreign := &appsv1.DaemonSet{ObjectMeta: ofAgents("plainroute", false)}
	foreign.Labels[partOfLabel] = "another"
	elsewhere := &appsv1.DaemonSet{ObjectMeta: ofAgents("plainroute", false)}
	elsewhere.Namespace = "elsewhere"
	for name, c := range map[string]struct {
		objects []runtime.Object
		refused string
	}{
		"nothing":                          {},
		"a DaemonSet":                      {[]runtime.Object{&appsv1.DaemonSet{ObjectMeta: ofAgents("agents", false)}}, "DaemonSet agents in namespace ours"},
		"a DaemonSet that is deleted":      {[]runtime.Object{&appsv1.DaemonSet{ObjectMeta: ofAgents("agents", true)}, agentPod(true, corev1.PodRunning)}, ""},
		"a pod":                            {[]runtime.Object{agentPod(false, corev1.PodRunning)}, "pod agent-1 in namespace ours on node node-1"},
		"a pod that has ended":             {[]runtime.Object{agentPod(false, corev1.PodFailed)}, ""},
		"another program's DaemonSet":      {[]runtime.Object{foreign}, ""},
		"a DaemonSet of another namespace": {[]runtime.Object{elsewhere}, ""},
	} {
		u := &Uninstall{Client: apiserver.NewObjects(t, c.objects...).Client(), Options: Options{Namespace: "ours"}, Notify: t.Logf}
		err := u.awaitAgents(t.Context(), 0)
		if errors.Is(err, cleanup.ErrRefused) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: got %v, want it refused for %q", name, err, c.refused)
		}
	}
}

// The garbage collector takes a moment to delete pods whose DaemonSet is gone.
func TestWaitsForGarbageCollection(t *testing.T) {
	server := apiserver.NewObjects(t)
	lists := 0
	server.On = func(_ *http.Request, at apiserver.Place) (any, error) {
		if at.Resource != "pods" {
			return nil, nil
		}
		lists++
		return &corev1.PodList{Items: []corev1.Pod{*agentPod(lists > 2, corev1.PodRunning)}}, nil
	}
	u := &Uninstall{Client: server.Client(), Options: Options{Namespace: "ours"}, Notify: t.Logf}
	if err := u.awaitAgents(t.Context(), time.Hour); err != nil || lists != 3 {
		t.Errorf("after %d looks: %v", lists, err)
	}
}

// Agents that appear while nodes are cleaned end it: the DaemonSet that cleans goes, and what those
// agents have set in Nodes stays.
func TestRefusesWhenAgentsAppear(t *testing.T) {
	server := apiserver.NewObjects(t, node("node-1", corev1.ConditionTrue))
	server.On = func(q *http.Request, at apiserver.Place) (any, error) {
		switch {
		case q.Method == http.MethodPatch:
			t.Errorf("a Node was patched: %+v", at)
		case q.Method == http.MethodPost && at.Resource == "daemonsets":
			server.Add(&appsv1.DaemonSet{ObjectMeta: ofAgents("agents", false)})
		}
		return nil, nil
	}
	u := &Uninstall{Client: server.Client(), Options: Options{Namespace: "ours", Timeout: time.Hour}, Notify: t.Logf}
	rows, err := u.Run(t.Context())
	if !errors.Is(err, cleanup.ErrRefused) || len(rows) != 1 || rows[0].Clean {
		t.Errorf("got %+v, %v; want it refused", rows, err)
	}
	sets, err := u.Client.DaemonSets("ours").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(sets.Items) != 1 || sets.Items[0].Name != "agents" {
		t.Errorf("there are DaemonSets %+v, %v; want those of the agents alone", sets.Items, err)
	}
}

// Where agents run on all nodes that are left, that is the reason, and where other nodes are left
// too it is not.
func TestAllThatAreLeftRefuse(t *testing.T) {
	rows := Rows{{Node: "a", Clean: true}, {Node: "b", Summary: cleanup.Summary{Refused: true}}}
	if err := rows.err(""); !errors.Is(err, cleanup.ErrRefused) {
		t.Errorf("got %v, want it refused", err)
	}
	if err := append(rows, Row{Node: "c"}).err(""); err == nil || errors.Is(err, cleanup.ErrRefused) {
		t.Errorf("got %v, want no refusal", err)
	}
}
