package idle

import (
	"runtime"
	"runtime/metrics"
	"sync/atomic"
)

// GC collects garbage between passes. A pass among thousands of Nodes makes more than a
// megabyte of it, and every second pass would start the collector, which makes allocations slower
// and occupies the cores: among 5,000 Nodes that was a third of the time from the watch to the
// route.
type GC struct{ busy atomic.Bool }

// AfterPass starts a collection in the background if the next pass might start one.
func (g *GC) AfterPass() {
	if !readHeap().nearlyDue() || !g.busy.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer g.busy.Store(false)
		runtime.GC()
	}()
}

// heap is memory in bytes: in use after the last collection, in use or not collected yet, and
// the size at which the runtime collects.
type heap struct{ live, objects, goal int64 }

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/goal:bytes"},
	}
	metrics.Read(samples)
	return heap{int64(samples[0].Value.Uint64()), int64(samples[1].Value.Uint64()), int64(samples[2].Value.Uint64())}
}

// nearlyDue reports whether the heap has grown by a third of what it may grow until the next
// collection. The runtime starts before its goal, and a pass takes up nearly half of that.
func (h heap) nearlyDue() bool {
	return h.goal > h.live && h.objects-h.live > (h.goal-h.live)/3
}
