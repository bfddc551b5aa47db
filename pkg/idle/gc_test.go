package idle

import (
	"runtime"
	"testing"
)

func TestNearlyDue(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		heap heap
		want bool
	}{
		{heap{8 * mib, 9 * mib, 12 * mib}, false},
		{heap{6 * mib, 8 * mib, 12 * mib}, false},
		{heap{8 * mib, 10 * mib, 12 * mib}, true},
		{heap{8 * mib, 7 * mib, 12 * mib}, false}, // some was freed since
		{heap{0, 3 * mib, 4 * mib}, true},         // before the first collection
		{heap{8 * mib, 9 * mib, 8 * mib}, false},  // a limit on memory: the runtime collects all the time
	} {
		if got := c.heap.nearlyDue(); got != c.want {
			t.Errorf("%v: %t", c.heap, got)
		}
	}
}

// AfterPass starts one collection at a time.
func TestOneCollectionAtATime(t *testing.T) {
	var s GC
	for range 100 {
		runtime.GC()
		h := readHeap()
		made := make([]byte, (h.goal-h.live)/2)
		s.AfterPass()
		runtime.KeepAlive(&made)
		if s.busy.Load() {
			return
		}
	}
	t.Error("while it is collected another collection may begin")
}

// AfterPass starts no collection for little garbage.
func TestLittleGarbageIsLeft(t *testing.T) {
	for range 10 { // others may make some meanwhile
		runtime.GC()
		var s GC
		if s.AfterPass(); !s.busy.Load() {
			return
		}
	}
	t.Error("after a collection there is another one at once")
}
