package faults

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
)

// section is a group of faults with a heading.
type section struct {
	title  string
	faults []fault
}

// sections are all faults, in the order in which docs/faults.md shows them.
func sections() []section {
	return []section{
		{"Routes, links and addresses", routeFaults()},
		{"The bridge and its ports", bridgeFaults()},
		{"Tunnels", tunnelFaults()},
		{"Settings and nftables", settingFaults()},
		{"Foreign routes", conflictFaults()},
		{"What the node looks like", viewFaults()},
		{"The CNI config", configFaults()},
		{"The agent", processFaults()},
		{"Other programs on the host", flapFaults()},
		{"The API server", apiFaults()},
		{"Lists of the API server", listFaults()},
		{"Nodes that come, go and change", identityFaults()},
		{"Nodes that claim what is others'", slices.Concat(claimFaults(), byTunnels(claimFaults(), nothing))},
		{"Nodes that wait for a peer's address to change", slices.Concat(stolenFaults(), byTunnels(stolenFaults(), untilRepaired))},
	}
}

// fault is one fault, with the bounds on repair and loss.
type fault struct {
	// name describes the fault, in an operator's words, and answer what the agent does about it.
	name, answer string
	// options are those of the node's agent.
	options nodelab.AgentOptions
	// prepare, where it is given, changes the nodes, and the agent's options, before the agents start.
	prepare func(*lab)
	// inject injects the fault, so many times: once if times is 0.
	inject func(*lab)
	times  int
	// repaired returns what is not yet as it should be; nil: everything of ours has to be as it
	// was.
	repaired func(*lab) error
	// finally, where it is given, checks further conditions in the end.
	finally func(*lab)
	// within is the bound on repair, with headroom for machines under load.
	within time.Duration
	// loses is the bound on lost packets.
	loses losses
	// lag is how long the kernel may take to use what is repaired.
	lag time.Duration
	// slow faults mostly wait.
	slow bool
	// alone are faults of the whole cluster, which come after all others.
	alone bool
}

// losses is the packet loss that a fault may cause.
type losses int

const (
	// nothing: no packet is lost, as it has to be whatever the agent itself does or suffers.
	nothing losses = iota
	// untilRepaired: the fault itself cuts the traffic, from the injection until the repair and no longer.
	untilRepaired
)

const (
	packetInterval = 10 * time.Millisecond
	// edge is how many packets of a flow may be lost at both ends of a cut.
	edge = 2
	// before and after are how many packets of a flow prove that the traffic runs.
	before, after = 20, 20
)

// measurement is the result of a fault.
type measurement struct {
	// repair is the longest time that a repair took.
	repair time.Duration
	// longestCut is the longest time that the fault itself may have cut the traffic.
	longestCut time.Duration
	// lost is that of the flow that lost most, mayLose its bound.
	lost, mayLose int
}

// run calls underWay when the lab is set up.
func (f fault) run(t *testing.T, p *pool, underWay func()) *measurement {
	if f.slow && testing.Short() {
		t.Skip("left out by -short: it takes long")
	}
	l := newLab(t, p, f)
	l.startTraffic()
	underWay()
	var m measurement
	for range max(1, f.times) {
		l.run(before)
		f.injectOnce(l, &m)
	}
	l.run(after)
	l.await(func() error { return l.node.ready(l) })
	f.verify(l, &m)
	if f.finally != nil {
		f.finally(l)
	}
	l.checkUntouched()
	return &m
}

func (f fault) injectOnce(l *lab, m *measurement) {
	l.broken()
	f.inject(l)
	repaired := l.checkOurs
	if f.repaired != nil {
		repaired = func() error { return f.repaired(l) }
	}
	l.await(repaired)
	now := time.Now()
	m.repair = max(m.repair, now.Sub(l.repairableAt))
	m.longestCut = max(m.longestCut, now.Sub(l.brokenAt))
	m.mayLose += f.mayLose(now.Sub(l.brokenAt))
}

// crowded is how much longer a repair may take when other faults and other packages share the
// processors: then the observation is late more than the repair. Published figures are measured one
// by one, within the bounds as they are.
const crowded = 4

func bound(limit time.Duration) time.Duration {
	if *update {
		return limit
	}
	return crowded * limit
}

func (f fault) mayLose(cut time.Duration) int {
	if f.loses == nothing {
		return 0
	}
	return int((cut+f.lag)/packetInterval) + edge
}

// verify stops the traffic and compares the measurement with the bounds.
func (f fault) verify(l *lab, m *measurement) {
	l.t.Helper()
	longest := f.mayLose(m.longestCut)
	for _, count := range l.stopTraffic() {
		m.lost = max(m.lost, count.Lost())
		if count.Lost() > m.mayLose || count.LongestLoss > longest || count.Sent == 0 {
			l.t.Errorf("%s, %d in a row: want at most %d lost, %d in a row", count, count.LongestLoss, m.mayLose, longest)
		}
	}
	if bound := bound(f.within); m.repair > bound {
		l.t.Errorf("repaired after %s; want at most %s", m.repair, bound)
	}
	l.t.Log(m)
}

func (m *measurement) String() string {
	return fmt.Sprintf("repaired after %s; lost %d packets of at most %d", short(m.repair), m.lost, m.mayLose)
}

// short rounds to a readable precision.
func short(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}
