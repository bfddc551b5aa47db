package checks

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/connectivity"
	"github.com/plainroute/plainroute/test/testutil"
)

// An API server that starts again while pods are waited for changes nothing.
func TestAPIServerStartsAgain(t *testing.T) {
	c, p := play(t, "node-1", "node-2", "node-3")
	var healthy atomic.Bool
	p.kubelet = func(pod *corev1.Pod) {
		if !healthy.Load() {
			pod.Status.Conditions = nil
		}
	}
	waits := make(chan struct{})
	r := testRun(p)
	r.Progress = func(string, int, int) {
		select {
		case waits <- struct{}{}:
		default:
		}
	}
	done := make(chan *connectivity.Result, 1)
	go func() {
		result, err := r.Do(t.Context())
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	<-waits
	testutil.Must(t, c.API.Kill())
	time.Sleep(3 * time.Second) // many a list is refused
	healthy.Store(true)
	testutil.Must(t, c.API.Restart())
	testutil.Must(t, c.API.Await(t.Context()))
	p.recover(t.Context())
	if result := <-done; result == nil || !result.OK() || len(result.Nodes) != 3 {
		t.Errorf("%+v: want three nodes and no fault", result)
	}
}

// An API server that stays away ends the run after the retry budget, and the error names it.
func TestAPIServerStaysAway(t *testing.T) {
	c, p := play(t, "node-1")
	p.kubelet = func(pod *corev1.Pod) { pod.Status.Conditions = nil }
	r := testRun(p)
	r.RetryBudget = 2 * time.Second
	var begin time.Time
	r.Progress = func(string, int, int) {
		if begin.IsZero() {
			begin = time.Now()
			testutil.Must(t, c.API.Kill())
		}
	}
	time.AfterFunc(10*time.Second, func() { _ = c.API.Restart() }) // for the removal of the pods
	_, err := r.Do(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the API server has failed for 2") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v: want that the API server has failed, and how", err)
	}
	testutil.Must(t, c.API.Await(t.Context()))
}
