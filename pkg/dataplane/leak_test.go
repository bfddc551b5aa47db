package dataplane

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// After Watch and Close, all goroutines and descriptors are gone.
func TestNothingIsLeftOpen(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	before := goleak.IgnoreCurrent()
	descriptors := m.descriptors()
	for range 20 {
		k, err := New(m.cfg)
		m.must(err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- k.Watch(ctx, time.Hour, func() {}) }()
		_, err = k.Facts(ctx, nil)
		m.must(err)
		_, err = k.Observe(ctx)
		m.must(err)
		cancel()
		m.must(<-done)
		m.must(k.Close())
	}
	var left error
	for end := time.Now().Add(time.Minute); ; { // each of Find has half a second for them to end
		if left = goleak.Find(before); left == nil || time.Now().After(end) {
			break
		}
	}
	m.must(left)
	if n := m.descriptors(); n != descriptors {
		t.Errorf("%d file descriptors became %d", descriptors, n)
	}
}

func (m *machine) descriptors() int {
	m.t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	m.must(err)
	return len(entries)
}
