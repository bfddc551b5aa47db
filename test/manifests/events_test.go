package manifests

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/test/testutil"
)

// With the rights of the chart, an agent creates an Event and increases its count, and does nothing
// else to Events.
func TestAgentCreatesEvents(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, time.Minute)
	account(ctx, t, namespace, "plainroute")
	for _, o := range helm(t, `clusterCIDR=["10.244.0.0/16"]`) {
		if o.GetNamespace() == metav1.NamespaceDefault {
			testutil.Must(t, server.apply(ctx, o))
			t.Cleanup(func() { remove(t, o) })
		}
	}
	agent := agentOf(ctx, t, "own").EventsV1()
	create := func(ctx context.Context) error {
		_, err := agent.Events("default").Create(ctx, &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: "own.1"}, EventTime: metav1.NowMicro(), Type: "Warning", Reason: "CNIConflict",
			Note: "x", Action: "ServePods", ReportingController: "plainroute", ReportingInstance: "own",
			Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "own", UID: "own"},
		}, metav1.CreateOptions{})
		return err
	}
	patch := func(ctx context.Context) error {
		_, err := agent.Events("default").Patch(ctx, "own.1", types.MergePatchType,
			[]byte(`{"series":{"count":2,"lastObservedTime":"2026-01-02T03:04:05.000000Z"}}`), metav1.PatchOptions{})
		return err
	}
	rightsTakeEffect(ctx, t, func() error { return create(ctx) })
	allow(ctx, t, []attempt{{"count it up", patch}})
	for _, a := range []attempt{
		{"read Events", func(ctx context.Context) error {
			_, err := agent.Events("default").List(ctx, metav1.ListOptions{})
			return err
		}},
		{"delete an Event", func(ctx context.Context) error {
			return agent.Events("default").Delete(ctx, "own.1", metav1.DeleteOptions{})
		}},
		{"create an Event elsewhere", func(ctx context.Context) error {
			_, err := agent.Events("kube-system").Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "own.1"}}, metav1.CreateOptions{})
			return err
		}},
	} {
		if err := a.do(ctx); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v; want it forbidden", a.name, err)
		}
	}
	testutil.Must(t, server.Client.EventsV1().Events("default").Delete(ctx, "own.1", metav1.DeleteOptions{}))
}
