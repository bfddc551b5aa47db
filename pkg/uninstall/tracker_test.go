package uninstall

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
}

func pod(now, last corev1.ContainerState) *corev1.Pod {
	return &corev1.Pod{Status: corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: cleaner, State: now, LastTerminationState: last}}}}
}

func ended(code int32, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: message}}
}

func backOff(reason string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "back-off"}}
}

var (
	none    corev1.ContainerState
	running = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
)

// The result of a node follows from its Node and pod.
func TestRows(t *testing.T) {
	unscheduled := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "Too many pods"},
	}}}
	for name, c := range map[string]struct {
		node *corev1.Node
		pod  *corev1.Pod
		want string // the row from RESULT on, its columns parted by a space
	}{
		"cleaned": {
			node(" ", corev1.ConditionFalse), pod(ended(0, `{"removed":{"route":7,"nftables table":1,"CNI config":2,"bridge":1}}`), none),
			"clean 7 0 removed removed removed",
		},
		"nothing was there": {node(" ", corev1.ConditionTrue), pod(ended(0, `{"removed":{}}`), none), "clean 0 0 none none none"},
		"said nothing":      {node(" ", corev1.ConditionTrue), pod(ended(0, ""), none), "clean 0 0 none none none"},
		"tunnels": {
			node(" ", corev1.ConditionTrue), pod(ended(0, `{"removed":{"route":7,"tunnel":2,"nftables table":1}}`), none), "clean 7 2 removed none none",
		},
		"under pods": {
			node(" ", corev1.ConditionTrue), pod(ended(0, `{"removed":{"route":7},"kept":["bridge plainroute0"]}`), none),
			"clean 7 0 none none stays pods are attached, so these stay: bridge plainroute0",
		},
		"not detached": {
			node(" ", corev1.ConditionTrue), pod(ended(0, `{"removed":{"bridge":1},"undetached":2}`), none),
			"clean 0 0 none none removed dead sandboxes are not detached (2), and a late CNI DEL may create the folder ipam of the run folder again",
		},
		"refused": {
			node(" ", corev1.ConditionFalse), pod(backOff("CrashLoopBackOff"), ended(3, `{"removed":{},"refused":true,"error":"an agent runs"}`)),
			"NOT CLEAN - - - - - refused: an agent runs",
		},
		"hostile":        {node(" ", corev1.ConditionTrue), pod(ended(0, `{"removed":{},"kept":["bridge \u001b[31m"]}`), none), `clean 0 0 none none stays pods are attached, so these stay: bridge \u001b[31m`},
		"failed":         {node(" ", corev1.ConditionFalse), pod(running, ended(1, `{"removed":{},"error":"listing links"}`)), "NOT CLEAN - - - - - listing links"},
		"killed":         {node(" ", corev1.ConditionFalse), pod(backOff("CrashLoopBackOff"), ended(137, "")), "NOT CLEAN - - - - - cleanup ended with code 137 (Error)"},
		"cut off":        {node(" ", corev1.ConditionFalse), pod(ended(1, `{"removed":{"rou`), none), `NOT CLEAN - - - - - {"removed":{"rou`},
		"still running":  {node(" ", corev1.ConditionFalse), pod(running, none), "NOT CLEAN - - - - - cleanup has not ended"},
		"no image":       {node(" ", corev1.ConditionTrue), pod(backOff("ErrImagePull"), none), "NOT CLEAN - - - - - its pod has not started: ErrImagePull back-off"},
		"not scheduled":  {node(" ", corev1.ConditionTrue), unscheduled, "NOT CLEAN - - - - - its pod has not started: Unschedulable Too many pods"},
		"without a pod":  {node(" ", corev1.ConditionTrue), nil, "NOT CLEAN - - - - - it has no pod (kubectl describe daemonsets -A -l app.kubernetes.io/name=plainroute-cleanup)"},
		"does not speak": {node(" ", corev1.ConditionUnknown), pod(none, none), "NOT CLEAN - - - - - the node does not answer"},
		"deleted":        {nil, nil, "gone - - - - - the Node no longer exists"},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := map[string]*corev1.Node{"n": c.node}
			f := newTracker(&Uninstall{Notify: t.Logf}, nodes)
			if c.pod != nil {
				f.update(map[string]*corev1.Pod{"n": c.pod})
			}
			rows := f.rows(nodes)
			var text strings.Builder
			if err := rows.Report().Print(&text); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(text.String(), "\n")
			if got := strings.Join(strings.Fields(lines[1])[1:], " "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if left := strings.HasPrefix(c.want, "NOT CLEAN"); left != (rows.err("") != nil) {
				t.Errorf("the error is %v", rows.err(""))
			}
		})
	}
}

// After an interrupt, nodes without a result are unknown: their pods may have been created, and
// have cleaned.
func TestInterruptedRows(t *testing.T) {
	names := map[string]*corev1.Node{"clean": nil, "refuses": nil, "runs": nil, "without a pod": nil}
	f := newTracker(&Uninstall{Notify: t.Logf}, names)
	for name := range names {
		names[name] = node(name, corev1.ConditionTrue)
	}
	f.update(map[string]*corev1.Pod{
		"clean": pod(ended(0, "{}"), none), "runs": pod(running, none),
		"refuses": pod(backOff("CrashLoopBackOff"), ended(3, `{"removed":{},"refused":true,"error":"an agent runs"}`)),
	})
	f.interrupted = true
	const unknown = "interrupted before it had reported a result"
	want := map[string]string{"clean": "", "refuses": "refused: an agent runs", "runs": unknown, "without a pod": unknown}
	for _, row := range f.rows(names) {
		if row.Error != want[row.Node] || row.Clean != (row.Node == "clean") {
			t.Errorf("%s: clean is %t, and the error %q", row.Node, row.Clean, row.Error)
		}
	}
}

// Repeated failures of a pod don't count as progress, and a node that joins late is cleaned as
// well.
func TestProgress(t *testing.T) {
	f := newTracker(&Uninstall{Notify: t.Logf}, map[string]*corev1.Node{"a": node("a", corev1.ConditionTrue)})
	refused := pod(backOff("CrashLoopBackOff"), ended(3, `{"removed":{},"refused":true}`))
	f.update(map[string]*corev1.Pod{"a": refused})
	before := f.progress
	for _, p := range []*corev1.Pod{pod(running, ended(3, "")), refused, pod(none, none)} {
		f.update(map[string]*corev1.Pod{"a": p})
	}
	if !f.progress.Equal(before) {
		t.Error("failing again was taken for progress")
	}
	f.update(map[string]*corev1.Pod{"a": pod(ended(0, "{}"), none), "b": pod(running, none)})
	if f.progress.Equal(before) || f.left() != 1 {
		t.Errorf("left %d", f.left())
	}
}

// The error names some nodes and counts the rest.
func TestManyNodesAreLeft(t *testing.T) {
	var rows Rows
	for i := range 1000 {
		rows = append(rows, Row{Node: fmt.Sprintf("node-%d", i)})
	}
	if err := rows.err(""); err == nil || !strings.HasPrefix(err.Error(), "1000 of 1000 nodes are not clean: node-0, ") || !strings.Contains(err.Error(), "node-19 and 980 more;") {
		t.Errorf("got %v", err)
	}
}

// If another release's agents run, the error names the release instead of --force.
func TestAnotherReleaseIsNamed(t *testing.T) {
	rows := Rows{{Node: "a", Summary: cleanup.Summary{Refused: true}}, {Node: "b"}}
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agents", Namespace: "network", Labels: map[string]string{partOfLabel: "plainroute", componentLabel: "agent", instanceLabel: "other"}}}
	for _, c := range []struct {
		rows  Rows
		sees  bool
		wants string
	}{
		{rows, true, "agents run on 1 of them, of release other (DaemonSet agents in namespace network): remove that first"},
		{rows, false, "agents run on 1 of them: remove those first (kubectl get daemonsets -A -l app.kubernetes.io/part-of=plainroute,app.kubernetes.io/component=agent)"},
		{rows[1:], true, "cleanup --force"},
	} {
		server := apiserver.NewObjects(t, set)
		server.On = func(_ *http.Request, at apiserver.Place) (any, error) {
			if !c.sees && at.Namespace == "" {
				return nil, apierrors.NewForbidden(schema.GroupResource{}, "", nil)
			}
			return nil, nil
		}
		u := &Uninstall{Client: server.Client(), Options: Options{Namespace: "ours"}}
		if err := c.rows.err(u.agents(t.Context(), c.rows)); err == nil || !strings.Contains(err.Error(), c.wants) || (c.rows[0].Refused && strings.Contains(err.Error(), "--force")) {
			t.Errorf("want %q in: %v", c.wants, err)
		}
	}
}

// Nodes without a kernel get neither pod nor row.
func TestRealNodes(t *testing.T) {
	windows, virtual := node("w", corev1.ConditionTrue), node("v", corev1.ConditionTrue)
	windows.Labels[corev1.LabelOSStable] = "windows"
	virtual.Labels["liqo.io/type"] = "virtual-node"
	for n, want := range map[*corev1.Node]bool{node("n", corev1.ConditionTrue): true, windows: false, virtual: false} {
		if isReal(n) != want {
			t.Errorf("%s: got %t", n.Name, !want)
		}
	}
	excluded := map[string][]string{}
	for _, r := range realNodes().NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions {
		excluded[r.Key] = r.Values
	}
	if !maps.EqualFunc(excluded, topology.VirtualLabels(), slices.Equal) {
		t.Errorf("the pods keep off %v", excluded)
	}
}
