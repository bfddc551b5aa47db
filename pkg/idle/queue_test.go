package idle

import (
	"testing"
	"time"

	"k8s.io/client-go/util/workqueue"
	_ "sigs.k8s.io/controller-runtime/pkg/controller" // sets the provider of the metrics
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// The metrics don't wake the process, and a delayed request does.
func TestQueueIsIdle(t *testing.T) {
	ticker := slowTicker{}.NewTicker(time.Millisecond)
	defer ticker.Stop()
	select {
	case <-ticker.C():
		t.Error("a ticker wakes an agent at rest")
	case <-time.After(50 * time.Millisecond):
	}

	q := NewQueue("resting", workqueue.DefaultTypedControllerRateLimiter[string]())
	defer q.ShutDown()
	q.AddAfter("pass", 10*time.Millisecond)
	got := make(chan struct{})
	go func() {
		q.Get()
		close(got)
	}()
	select {
	case <-got:
	case <-time.After(20 * time.Second):
		t.Errorf("a pass that was asked for in 10 ms has not come after 20s")
	}
}

// A queue has metrics under its name.
func TestQueueHasMetrics(t *testing.T) {
	q := NewQueue("named", workqueue.DefaultTypedControllerRateLimiter[string]())
	defer q.ShutDown()
	q.Add("pass")
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "workqueue_adds_total" && m.GetLabel()[0].GetValue() == "named" && m.GetCounter().GetValue() > 0 {
				return
			}
		}
	}
	t.Error("no workqueue_adds_total of its name")
}
