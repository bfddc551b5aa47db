package dataplane

import (
	"context"
	"net/netip"
	"testing"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// The benchmarks of this file have 5,000 Nodes. Their counts are compared by `make bench-check`.
const costNodes = 5000

// costlyNodes returns them, each with an InternalIP of its own.
func (m *machine) costlyNodes() []*topology.Node {
	m.addr("eth0", "172.20.0.1/16")
	all := nodes(costNodes)
	for i, n := range all[1:] {
		n.Addrs[0] = netip.AddrFrom4([4]byte{172, 20, byte((i + 2) >> 8), byte(i + 2)})
	}
	return all
}

// countMessages reports how many netlink messages one iteration sends, apart from those of libraries.
func (m *machine) countMessages(b *testing.B) {
	before := m.sent()
	b.Cleanup(func() { b.ReportMetric(float64(m.sent()-before)/float64(b.N), "messages/op") })
}

// sent returns how many messages our own sockets have sent.
func (m *machine) sent() uint32 { return m.rtnetlink.sequence + m.nfnetlink.sequence }

// readAll reads the host and our objects on it.
func (m *machine) readAll(all []*topology.Node) (topology.Host, topology.State) {
	host, err := m.Facts(context.Background(), topology.Concerns(options(m), all))
	m.must(err)
	return host, m.observe()
}

// BenchmarkObserve reads the kernel anew, as an audit does, or when nothing has changed.
func BenchmarkObserve(b *testing.B) {
	for name, forget := range map[string]bool{"all": true, "kept": false} {
		b.Run(name, func(b *testing.B) {
			m := newMachine(b)
			all := m.costlyNodes()
			m.settle(all)
			concerns := topology.Concerns(options(m), all)
			b.ReportAllocs()
			m.countMessages(b)
			for b.Loop() {
				if forget {
					m.Forget()
				}
				_, err := m.Facts(context.Background(), concerns)
				m.must(err)
				m.observe()
			}
		})
	}
}

// BenchmarkApply adds and deletes the routes of one Node, or of all.
func BenchmarkApply(b *testing.B) {
	for name, count := range map[string]int{"one": 1, "all": costNodes} {
		b.Run(name, func(b *testing.B) {
			m := newMachine(b)
			all := m.costlyNodes()
			m.settle(all)
			_, actual := m.readAll(all)
			some := topology.State{Routes: actual.Routes[:min(count*m.families(), len(actual.Routes))]}
			add, remove := plan.Diff(some, topology.State{}), plan.Diff(topology.State{}, some)
			turn := func() {
				for _, c := range []plan.Changes{remove, add} {
					m.must(m.Apply(context.Background(), c))
				}
				m.observe()
			}
			turn()
			b.ReportAllocs()
			m.countMessages(b)
			for b.Loop() {
				turn()
			}
		})
	}
}

// BenchmarkPass is two passes, in which one Node of many leaves and comes back.
func BenchmarkPass(b *testing.B) {
	m := newMachine(b)
	all := m.stated(m.costlyNodes())
	m.settle(all)
	_, actual := m.readAll(all)
	var x topology.Incremental
	pass := func(all []*topology.Node) {
		host, err := m.Facts(context.Background(), x.Concerns(options(m), all))
		m.must(err)
		state := m.observe().After(actual)
		desired, _ := x.Desired(options(m), host, all, state)
		changes := plan.Diff(desired, state)
		if changes.Empty() {
			b.Fatal("there is nothing to do")
		}
		m.must(m.Apply(context.Background(), changes))
		actual = desired
	}
	turn := func() {
		pass(all[:costNodes-1])
		pass(all)
	}
	turn()
	b.ReportAllocs()
	m.countMessages(b)
	for b.Loop() {
		turn()
	}
}
