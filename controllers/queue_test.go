package controllers

import (
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// TestQueueRests: metrics don't wake the process, and what is to come back in a while does.
func TestQueueRests(t *testing.T) {
	ticker := restingClock{}.NewTicker(time.Millisecond)
	defer ticker.Stop()
	select {
	case <-ticker.C():
		t.Error("a ticker wakes an agent at rest")
	case <-time.After(50 * time.Millisecond):
	}

	q := restingQueue("resting", workqueue.DefaultTypedControllerRateLimiter[Pass]())
	defer q.ShutDown()
	q.AddAfter(Pass{}, 10*time.Millisecond)
	got := make(chan struct{})
	go func() {
		q.Get()
		close(got)
	}()
	select {
	case <-got:
	case <-time.After(limit):
		t.Errorf("a pass that was asked for in 10 ms has not come after %s", limit)
	}
}

// Its metrics are those of its name.
func TestQueueHasMetrics(t *testing.T) {
	q := restingQueue("named", workqueue.DefaultTypedControllerRateLimiter[Pass]())
	defer q.ShutDown()
	q.Add(Pass{})
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "workqueue_adds_total" && strings.Contains(labelValues(m), "named ") && m.GetCounter().GetValue() > 0 {
				return
			}
		}
	}
	t.Error("no workqueue_adds_total of its name")
}
