package faults

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// lab is where a fault is injected: into node, not into its peer.
//
//	pod 0 ── node ── LAN ── peer ── pod 1
type lab struct {
	t          *testing.T
	pool       *pool
	node, peer *machine
	pods       []*nodelab.Pod
	// options are those of the node's agent, peerOptions of its peer's.
	options, peerOptions nodelab.AgentOptions
	flows                []*netlab.Flow
	// brokenAt is when the traffic was cut, repairableAt when the agent could first do something about it.
	brokenAt, repairableAt time.Time

	// Some faults use these.
	injectors
}

func newLab(t *testing.T, p *pool, f fault) *lab {
	t.Helper()
	l := &lab{t: t, pool: p, options: f.options}
	l.node, l.peer = l.newMachine(), l.newMachine()
	if f.prepare != nil {
		f.prepare(l)
	}
	for _, m := range []*machine{l.node, l.peer} {
		var err error
		m.foreign, err = m.foreignState()
		l.must(err)
		l.must(m.Register(l.within(limit)))
	}
	l.must(l.node.StartAgent(l.options))
	l.must(l.peer.StartAgent(l.peerOptions))
	for _, m := range []*machine{l.node, l.peer} {
		l.must(m.WaitReady(l.within(limit)))
	}
	l.must(l.node.AwaitRoute(l.within(limit), l.peer.Subnets...))
	l.must(l.peer.AwaitRoute(l.within(limit), l.node.Subnets...))
	for _, m := range []*machine{l.node, l.peer} {
		pod, err := m.AddPod(l.within(limit), "pod")
		l.must(err)
		l.pods = append(l.pods, pod)
	}
	return l
}

// newMachine makes a node with things of others on it, which is retired with the test.
func (l *lab) newMachine() *machine {
	l.t.Helper()
	number := <-l.pool.numbers
	node, err := l.pool.NewNode(number)
	l.must(err)
	m := &machine{Node: node}
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Logf("end of the log of %s's agent:\n%s", m.Name, m.LogTail(15))
		}
		if err := m.Retire(context.Background()); err != nil {
			l.t.Errorf("retiring %s: %v", m.Name, err)
			return
		}
		l.pool.numbers <- number
	})
	l.must(m.plantForeign())
	return m
}

// startTraffic pings between the pods, both ways and over both families, and remembers how all is when they are
// answered.
func (l *lab) startTraffic() {
	l.t.Helper()
	for i, from := range l.pods {
		for _, to := range l.pods[1-i].Addrs() {
			_, err := from.Ping(l.within(limit), to)
			l.must(err)
			flow, err := from.StartFlow(to)
			l.must(err)
			l.flows = append(l.flows, flow)
		}
	}
	var err error
	l.node.ours, err = l.node.ownState(l.peer)
	l.must(err)
}

// run lets each flow send so many packets, where there are any.
func (l *lab) run(packets int) {
	l.t.Helper()
	for _, flow := range l.flows[:min(1, len(l.flows))] {
		l.must(flow.Run(l.within(limit), packets))
	}
}

// stopTraffic stops all flows at once, because each waits for its packets under way.
func (l *lab) stopTraffic() []netlab.FlowReport {
	reports := make([]netlab.FlowReport, len(l.flows))
	var stopping sync.WaitGroup
	for i, flow := range l.flows {
		stopping.Go(func() { reports[i] = flow.Stop() })
	}
	stopping.Wait()
	l.flows = nil
	return reports
}

// broken notes that the traffic is cut from now on. It is called before an injection; one that prepares something first
// calls it again.
func (l *lab) broken() { l.brokenAt, l.repairableAt = time.Now(), time.Now() }

// repairable notes that the agent can repair from now on: an injection calls it that has to give
// something back first, or to wake the agent.
func (l *lab) repairable() { l.repairableAt = time.Now() }

// await looks every millisecond until wrong finds nothing wrong any more.
func (l *lab) await(wrong func() error) {
	l.t.Helper()
	testutil.Await(l.t, wrong)
}

// checkOurs returns how the node's things of ours differ from before.
func (l *lab) checkOurs() error {
	now, err := l.node.ownState(l.peer)
	if err != nil {
		return err
	}
	return l.node.ours.compare(now)
}

// checkUntouched fails the test if anything that is not ours is not as it was before the agents started.
func (l *lab) checkUntouched() {
	l.t.Helper()
	for _, m := range []*machine{l.node, l.peer} {
		now, err := m.foreignState()
		l.must(err)
		if err := m.foreign.compare(now); err != nil {
			l.t.Errorf("what is not ours on %s: %v", m.Name, err)
		}
		l.must(m.checkLitter())
	}
}

// within bounds a wait of the test.
func (l *lab) within(duration time.Duration) context.Context {
	return testutil.Within(l.t, duration)
}

func (l *lab) must(err error) {
	l.t.Helper()
	testutil.Must(l.t, err)
}
