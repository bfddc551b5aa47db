package dataplane

import (
	"context"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// fullTable is what the Internet's routing table has, roughly.
const fullTable = 900_000

// A full read neither keeps irrelevant routes nor allocates memory for them.
func TestFullReadOfALargeTable(t *testing.T) {
	if testing.Short() {
		t.Skip("adds a million routes")
	}
	m := newMachine(t)
	all := nodes(10)
	m.settle(all)
	few := m.allocated(all)
	m.bulk(fullTable, "192.168.1.1")
	begin := time.Now()
	many := m.allocated(all)
	t.Logf("a full read among %d routes takes %v and allocates %d bytes, %d among few", fullTable, time.Since(begin), many, few)
	const messages = fullTable * 60 / (32 << 10) // of 32 KiB, a route has some 60 bytes
	const perMessage = 512                       // what the sender's address takes, twice
	if many > few+messages*perMessage+64<<10 {
		t.Errorf("a full read allocates %d bytes, %d of them for irrelevant routes", many, many-few)
	}
	m.must(m.nl.RouteDel(&m.ours()[0]))
	m.Kernel.fresh.ours = false
	begin = time.Now()
	if c := m.diff(all); count(c, plan.Add) != 1 {
		t.Errorf("after one of ours was deleted: %+v", c)
	}
	t.Logf("reading our own among them takes %v", time.Since(begin))
}

// allocated returns the bytes that a full read allocates.
func (m *machine) allocated(all []*topology.Node) uint64 {
	m.t.Helper()
	concerns := topology.Concerns(options(m), all)
	var before, after runtime.MemStats
	m.Forget()
	runtime.ReadMemStats(&before)
	_, err := m.Facts(context.Background(), concerns)
	runtime.ReadMemStats(&after)
	m.must(err)
	return after.TotalAlloc - before.TotalAlloc
}

// BenchmarkForeignFlap is a second in which one of 50,000 irrelevant routes flaps 100 times, with
// an agent that makes up to 20 passes a second.
func BenchmarkForeignFlap(b *testing.B) {
	m := newMachine(b)
	all := nodes(10)
	m.bulk(50_000, "192.168.1.1")
	news := m.watchSettled(all)
	flapping := m.foreign("172.30.0.0/16", "192.168.1.1", "eth0", 0, 4)
	passes, reads, read := 0, 0, m.routes
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	budget := time.NewTicker(50 * time.Millisecond)
	defer budget.Stop()
	before := cpu()
	for b.Loop() {
		for range 100 {
			<-ticks.C
			m.must(m.nl.RouteAdd(flapping))
			m.must(m.nl.RouteDel(flapping))
			select {
			case <-budget.C:
			default:
				continue
			}
			if len(news) > 0 {
				drain(news, 0)
				m.pass(all)
				passes++
			}
			if m.routes != read {
				read = m.routes
				reads++
			}
		}
	}
	b.ReportMetric(float64(passes)/float64(b.N), "passes/s")
	b.ReportMetric(float64(reads)/float64(b.N), "reads/s")
	b.ReportMetric(100*(cpu()-before).Seconds()/b.Elapsed().Seconds(), "%cpu")
}

// cpu returns the time that this process has had of all CPUs.
func cpu() time.Duration {
	var usage unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func BenchmarkFullRead(b *testing.B) {
	m := newMachine(b)
	all := nodes(10)
	m.settle(all)
	m.bulk(fullTable, "192.168.1.1")
	concerns := topology.Concerns(options(m), all)
	b.ReportAllocs()
	for b.Loop() {
		m.Forget()
		_, err := m.Facts(context.Background(), concerns)
		m.must(err)
	}
}
