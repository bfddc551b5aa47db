package controllers

import (
	"testing"
	"time"

	"k8s.io/client-go/util/workqueue"
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

	q := restingQueue("test", workqueue.DefaultTypedControllerRateLimiter[Pass]())
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
