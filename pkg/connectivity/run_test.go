package connectivity

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/test/apiserver"
)

// healthy is a run in a cluster of two nodes that makes pods, and in which all probes arrive.
func healthy(t *testing.T) (*Run, *apiserver.Objects) {
	t.Helper()
	pods, nodes := cluster(2)
	server := apiserver.NewObjects(t)
	for i := range nodes {
		nodes[i].Labels = map[string]string{corev1.LabelOSStable: "linux"}
		server.Add(&nodes[i])
	}
	server.On = func(q *http.Request, at apiserver.Place) (any, error) {
		for i := range pods {
			if q.Method == http.MethodPost && at.Resource == "services" {
				pods[i].Namespace = at.Namespace
				pods[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
				server.Add(&pods[i])
			}
		}
		return nil, nil
	}
	return &Run{
		Client: server.Client(), MaxNodes: 10, Timeout: time.Minute, RetryBudget: RetryBudget, RefusalTimeout: RefusalTimeout, Notify: func(string) {},
		Post: func(_ context.Context, _, _, _ string, body []byte) (io.ReadCloser, error) {
			var probes []Probe
			if err := json.Unmarshal(body, &probes); err != nil {
				return nil, err
			}
			answer, err := json.Marshal(make([]Outcome, len(probes)))
			return io.NopCloser(strings.NewReader(string(answer))), err
		},
	}, server
}

// If the namespace can't be deleted, such as without an aggregated API, the result is returned
// anyway.
func TestResultThoughTheNamespaceStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, server := healthy(t)
		works := server.On
		server.On = func(q *http.Request, at apiserver.Place) (any, error) {
			if q.Method == http.MethodDelete && at.Resource == "namespaces" {
				return metav1.Status{Status: metav1.StatusSuccess}, nil
			}
			return works(q, at)
		}
		result, err := r.Do(t.Context())
		if err == nil || !strings.Contains(err.Error(), "plainroute check --remove") {
			t.Errorf("a namespace that stays is reported as %v", err)
		}
		if result == nil || !result.OK() || result.Probes == 0 {
			t.Errorf("the result is %+v", result)
		}
	})
}

// A test that was interrupted has no result, and leaves nothing.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := healthy(t)
		ctx, cancel := context.WithCancel(t.Context())
		post := r.Post
		r.Post = func(ctx context.Context, namespace, pod, path string, body []byte) (io.ReadCloser, error) {
			cancel()
			return post(ctx, namespace, pod, path, body)
		}
		result, err := r.Do(ctx)
		if result != nil || !errors.Is(err, errInterrupted) {
			t.Errorf("%+v, %v", result, err)
		}
		if left, err := r.Client.Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil || len(left.Items) > 0 {
			t.Errorf("left are %v, %v", left, err)
		}
	})
}

// The test ends in its time even if nothing arrives, among 200 nodes with two families.
func TestNothingArrivesAmong200Nodes(t *testing.T) {
	pods, nodes := cluster(200)
	p := newPlan(pods, nodes, []string{"10.96.0.7", "fd00:10:96::7"}, []string{"responder", "kubernetes.default"}, nil)
	first := &p.tasks[0]
	if took := maxDuration(len(first.probes)); took > time.Minute {
		t.Errorf("a pod takes %s for %d probes", took, len(first.probes))
	}
	r := &Run{Timeout: time.Second, Post: func(ctx context.Context, _, _, _ string, _ []byte) (io.ReadCloser, error) {
		if end, ok := ctx.Deadline(); !ok || time.Until(end) < maxDuration(len(first.probes)) {
			t.Errorf("the pod is waited for until %s", end)
		}
		return io.NopCloser(strings.NewReader("[]")), nil
	}}
	_, err := r.request(t.Context(), testNamespace, first)
	if err == nil || strings.Contains(err.Error(), "%!") || !strings.Contains(err.Error(), "returned 0 of") {
		t.Errorf("a response that is too short is reported as %v", err)
	}
}

// Waiting reads only the nodes without pods, and not 5,000 others each time.
func TestWaitLooksAtFewNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods, nodes := cluster(3)
		server := apiserver.NewObjects(t)
		for i := range pods {
			pods[i].Namespace = testNamespace
			if pods[i].Spec.NodeName != "node-2" {
				pods[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			}
			server.Add(&pods[i])
		}
		var asked []string
		server.On = func(q *http.Request, at apiserver.Place) (any, error) {
			if at.Resource != "nodes" {
				return nil, nil
			}
			asked = append(asked, q.URL.Query().Get("fieldSelector"))
			gone := nodes[1].DeepCopy()
			gone.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown"}}
			return &corev1.NodeList{Items: []corev1.Node{*gone}}, nil
		}
		r := &Run{Client: server.Client(), Timeout: time.Minute, RetryBudget: RetryBudget, RefusalTimeout: RefusalTimeout}
		ready, absent, err := r.wait(t.Context(), testNamespace, nodes)
		if err != nil || len(ready) != 4 || len(absent) != 1 || !strings.HasPrefix(absent[0].Message, "the node is NotReady") {
			t.Errorf("%d pods, %v, %v", len(ready), absent, err)
		}
		if len(asked) != 1 || asked[0] != "metadata.name=node-2" {
			t.Errorf("asked for %q", asked)
		}
	})
}
