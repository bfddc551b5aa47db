package controllers

import (
	"runtime"
	"runtime/metrics"
	"sync/atomic"
)

// A sweeper collects garbage between passes. A pass among thousands of Nodes makes two
// megabytes of it, and every other pass would set the collector off in its midst, which
// then makes who allocates help, and wants the cores that the route waits for: among
// 5,000 Nodes that was a third of the time from the watch to the route.
type sweeper struct{ busy atomic.Bool }

// afterPass collects, beside what comes next, if the next pass might have to.
func (s *sweeper) afterPass() {
	if !readHeap().nearlyDue() || !s.busy.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer s.busy.Store(false)
		runtime.GC()
	}()
}

// heap is how much memory there is, in bytes: in use after the last collection, in use or
// not yet collected, and at which of that the runtime collects.
type heap struct{ live, objects, goal int64 }

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/goal:bytes"},
	}
	metrics.Read(samples)
	return heap{int64(samples[0].Value.Uint64()), int64(samples[1].Value.Uint64()), int64(samples[2].Value.Uint64())}
}

// nearlyDue tells whether a third of the way to the next collection is gone. The runtime
// begins before the goal, and a pass takes nearly half the way.
func (h heap) nearlyDue() bool {
	return h.goal > h.live && h.objects-h.live > (h.goal-h.live)/3
}
