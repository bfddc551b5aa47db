package cni

import (
	"context"
	"os"
	"runtime/debug"
	"testing"
)

// No file stays open except the lock's: neither after reads, nor after watches, nor after renewals
// of the lock.
func TestNothingIsLeftOpen(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close what is lost
	s := newStore(t)
	lock, err := s.TakeLock()
	must(t, err)
	s.Lock = lock
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	before := open()
	for range 20 {
		if !s.Held() {
			t.Error("nobody has the lock")
		}
		must(t, s.Mounted())
		must(t, os.Remove(s.lock()))
		must(t, s.Write(dualStack()))
		ctx, cancel := context.WithCancel(t.Context())
		must(t, s.Watch(ctx, cancel, func(error) {}))
	}
	if now := open(); now > before+5 {
		t.Errorf("%d files are open, and %d were before", now, before)
	}
	must(t, lock.Close())
}
