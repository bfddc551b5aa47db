package uninstall

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clientgo "k8s.io/client-go/testing"

	"github.com/plainroute/plainroute/pkg/cleanup"
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
		u := &Uninstall{Client: fake.NewClientset(c.objects...), Options: Options{Namespace: "ours"}, Notify: t.Logf}
		err := u.awaitAgents(t.Context(), 0)
		if errors.Is(err, cleanup.ErrRefused) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: got %v, want it refused for %q", name, err, c.refused)
		}
	}
}

// The garbage collector takes a moment to delete pods whose DaemonSet is gone.
func TestWaitsForGarbageCollection(t *testing.T) {
	client := fake.NewClientset()
	lists := 0
	client.PrependReactor("list", "pods", func(clientgo.Action) (bool, runtime.Object, error) {
		lists++
		return true, &corev1.PodList{Items: []corev1.Pod{*agentPod(lists > 2, corev1.PodRunning)}}, nil
	})
	u := &Uninstall{Client: client, Options: Options{Namespace: "ours"}, Notify: t.Logf}
	if err := u.awaitAgents(t.Context(), time.Hour); err != nil || lists != 3 {
		t.Errorf("after %d looks: %v", lists, err)
	}
}

// Agents that appear while nodes are cleaned end it: the DaemonSet that cleans goes, and what those
// agents have set in Nodes stays.
func TestRefusesWhenAgentsAppear(t *testing.T) {
	client := fake.NewClientset(node("node-1", corev1.ConditionTrue))
	client.PrependReactor("create", "daemonsets", func(action clientgo.Action) (bool, runtime.Object, error) {
		set, ok := action.(clientgo.CreateAction).GetObject().(*appsv1.DaemonSet)
		if !ok {
			t.Fatal("that is no DaemonSet")
		}
		set.Name = "cleaner"
		return false, nil, client.Tracker().Add(&appsv1.DaemonSet{ObjectMeta: ofAgents("agents", false)})
	})
	u := &Uninstall{Client: client, Options: Options{Namespace: "ours", Timeout: time.Hour}, Notify: t.Logf}
	rows, err := u.Run(t.Context())
	if !errors.Is(err, cleanup.ErrRefused) || len(rows) != 1 || rows[0].Clean {
		t.Errorf("got %+v, %v; want it refused", rows, err)
	}
	sets, err := client.AppsV1().DaemonSets("ours").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(sets.Items) != 1 || sets.Items[0].Name != "agents" {
		t.Errorf("there are DaemonSets %+v, %v; want those of the agents alone", sets.Items, err)
	}
	for _, action := range client.Actions() {
		if action.GetVerb() == "patch" {
			t.Errorf("a Node was patched: %+v", action)
		}
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
