package cni

import (
	"context"
	"os"
	"runtime/debug"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// No file stays open except the lock's: neither after reads, nor after watches, nor after renewals
// of the lock.
func TestNothingIsLeftOpen(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close what is lost
	s := newStore(t)
	lock, err := s.TakeLock()
	testutil.Must(t, err)
	s.Lock = lock
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		testutil.Must(t, err)
		return len(entries)
	}
	before := open()
	for range 20 {
		if !s.Held() {
			t.Error("nobody has the lock")
		}
		testutil.Must(t, s.Mounted())
		testutil.Must(t, os.Remove(s.lock()))
		testutil.Must(t, s.Write(dualStack()))
		ctx, cancel := context.WithCancel(t.Context())
		testutil.Must(t, s.Watch(ctx, cancel, func(error) {}))
	}
	if now := open(); now > before+5 {
		t.Errorf("%d files are open, and %d were before", now, before)
	}
	testutil.Must(t, lock.Close())
}
