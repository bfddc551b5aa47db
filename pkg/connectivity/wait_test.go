package connectivity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/apiserver"
)

const testNamespace = "test"

// waiting runs wait in a cluster of three nodes whose pods are ready, unless changed.
func waiting(t *testing.T, timeout time.Duration, change func(pods []corev1.Pod, nodes []corev1.Node)) (pods []corev1.Pod, absent []problem.Problem, err error) {
	t.Helper()
	all, nodes := cluster(3)
	for i := range all {
		all[i].Namespace = testNamespace
		all[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	change(all, nodes)
	server := apiserver.NewObjects(t, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: "e"}, Reason: "FailedCreate", Message: "exceeded quota",
	})
	for i := range all {
		if all[i].Name != "" {
			server.Add(&all[i])
		}
	}
	r := &Run{Client: server.Client(), Image: "plainroute:1", Timeout: timeout}
	return r.wait(t.Context(), testNamespace, nodes)
}

// A node that is nodeNotReady is named at once, and the others are tested.
func TestNodeAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		pods, absent, err := waiting(t, time.Minute, func(pods []corev1.Pod, nodes []corev1.Node) {
			nodes[2].Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status."}}
			pods[4].Status.Conditions, pods[5].Status.Conditions = nil, nil
		})
		want := []problem.Problem{nodeAbsent(
			"node-3", "the node is NotReady: NodeStatusUnknown: Kubelet stopped posting node status.",
			"kubectl describe node node-3, and on the node: systemctl status kubelet, journalctl -u kubelet",
		)}
		if err != nil || len(pods) != 4 || !slices.Equal(absent, want) || time.Since(begin) > 30*time.Second {
			t.Errorf("after %s: %d pods, %v, %v; want 4, %v", time.Since(begin), len(pods), absent, err, want)
		}
	})
}

// A Node that was created by hand, or whose kubelet died at once, is named at once, not left out.
func TestNodeWithoutKubelet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		r, server := healthy(t)
		windows := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "windows", Labels: map[string]string{corev1.LabelOSStable: "windows"}}}
		server.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "made"}}, windows)
		result, err := r.Do(t.Context())
		if err != nil || len(result.Nodes) != 2 || len(result.Absent) != 1 || result.Absent[0].Node != "made" || !strings.HasSuffix(result.Absent[0].Message, "no kubelet has ever updated its status") || time.Since(begin) > 30*time.Second {
			t.Errorf("after %s: %+v, %v", time.Since(begin), result, err)
		}
	})
}

// A node that is Ready by its condition is waited for, then named.
func TestPodNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods, absent, err := waiting(t, time.Second, func(pods []corev1.Pod, _ []corev1.Node) {
			pods[1].Status = corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}}}}
		})
		want := []problem.Problem{nodeAbsent(
			"node-1", "its pod is not ready: ImagePullBackOff: no such image",
			"bring plainroute:1 to the node, or name an image that needs no pull secret: --image",
		)}
		if err != nil || len(pods) != 4 || !slices.Equal(absent, want) {
			t.Errorf("%d pods, %v, %v; want 4, %v", len(pods), absent, err, want)
		}
	})
}

// If pods are refused, the message has the reason.
func TestPodsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, absent, err := waiting(t, time.Second, func(pods []corev1.Pod, _ []corev1.Node) { pods[0].Name = "" })
		if want := "the API server rejects the test's pods: exceeded quota"; err != nil || len(absent) != 1 || absent[0].Node != "node-1" || absent[0].Message != want {
			t.Errorf("%v, %v; want %s", absent, err, want)
		}
		_, _, err = waiting(t, time.Second, func(pods []corev1.Pod, _ []corev1.Node) {
			for i := range pods {
				pods[i].Name = ""
			}
		})
		if err == nil || !strings.Contains(err.Error(), "exceeded quota") {
			t.Errorf("without any pod: %v; want the refusal", err)
		}
	})
}

// A pod that doesn't respond gets one request, and the error has the duration.
func TestPodWithoutResponse(t *testing.T) {
	pods, nodes := cluster(2)
	p := newPlan(pods, nodes, nil, []string{"responder"}, nil)
	asked := 0
	r := &Run{Client: apiserver.NewObjects(t).Client(), Timeout: time.Minute, Post: func(context.Context, string, string, string, []byte) (io.ReadCloser, error) {
		asked++
		return nil, fmt.Errorf("reading: %w", os.ErrDeadlineExceeded)
	}}
	_, err := r.requestAgain(t.Context(), testNamespace, &p.tasks[0])
	if want := "the pod on node node-1 did not respond within 1m3s: "; asked != 1 || err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("asked %d times: %v; want once, %s", asked, err, want)
	}
}

// A node that does not answer, or with kindWords for the terminal, does not hide the others.
func TestNodeWithoutResponse(t *testing.T) {
	pods, nodes := cluster(2)
	p := newPlan(pods, nodes, nil, []string{"responder"}, nil)
	r := &Run{Client: apiserver.NewObjects(t).Client(), Timeout: time.Second, Post: func(_ context.Context, _, pod, _ string, _ []byte) (io.ReadCloser, error) {
		if pod == "node-2-a" {
			return nil, errors.New("its kubelet is \x1b[31maway")
		}
		outcomes := strings.Repeat(`{"error":""},`, len(p.tasks[0].probes))
		return io.NopCloser(strings.NewReader("[" + strings.TrimSuffix(outcomes, ",") + "]")), nil
	}}
	result := &Result{Nodes: p.nodes}
	if err := r.probe(t.Context(), testNamespace, p, result); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := result.Print(&b); err != nil {
		t.Fatal(err)
	}
	if result.OK() || result.Probes != len(p.tasks[0].probes) || !strings.Contains(b.String(), "node node-2: NodeAbsent: requesting probes from the pod") || !strings.HasSuffix(b.String(), "all is well; 1 node could not take part\n") || strings.Contains(b.String(), "\x1b") {
		t.Errorf("ok %t:\n%s", result.OK(), b.String())
	}
}

// The API server may have created a namespace although its response was lost.
func TestNamespaceWithoutAnswer(t *testing.T) {
	for _, c := range []struct {
		err  error
		is   func(error) bool
		made bool
	}{
		{context.Canceled, func(err error) bool { return errors.Is(err, context.Canceled) }, true},
		{apierrors.NewForbidden(schema.GroupResource{}, "", nil), apierrors.IsForbidden, false},
	} {
		server := apiserver.NewObjects(t)
		server.On = func(*http.Request, apiserver.Place) (any, error) { return nil, c.err }
		namespace, err := (&Run{Client: server.Client()}).deploy(t.Context())
		if (namespace != "") != c.made || !c.is(err) {
			t.Errorf("after %v: %q, %v", c.err, namespace, err)
		}
	}
}

// A virtual node has no pod of the test, and none is waited for.
func TestVirtualNodes(t *testing.T) {
	r := &Run{MaxNodes: 10, Client: apiserver.NewObjects(
		t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{corev1.LabelOSStable: "linux"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "virtual", Labels: map[string]string{corev1.LabelOSStable: "linux", "type": "virtual-kubelet"}}},
	).Client()}
	nodes, err := r.nodes(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0].Name != "node-1" {
		t.Errorf("%v, %v; want node-1 alone", nodes, err)
	}
}
