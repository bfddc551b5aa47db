package doctor

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Among 5,000 Nodes all checks take seconds, even if no peer answers.
func TestAmong5000Nodes(t *testing.T) {
	l := newLAN(t)
	addAddrs(t, l.nl, "lan0", "172.20.255.254/16")
	l.nodes = different(5000).Nodes
	for i := range l.nodes[1:] {
		l.nodes[i+1].Status.Addresses[0].Address = fmt.Sprintf("172.20.%d.%d", i/250, 1+i%250)
	}
	p := l.target()
	for _, one := range p.peers() {
		p.State.Routes = append(p.State.Routes, &topology.Route{Dst: one.paths[0].subnet, Via: one.paths[0].hop, Dev: "lan0", Protocol: topology.Protocol, Metric: topology.PeerMetric(one.paths[0].subnet)})
	}
	begin := time.Now()
	passed, found := Examine(t.Context(), p, Checks())
	took := time.Since(begin)
	t.Logf("it took %s", took)
	if took > limit {
		t.Errorf("it took %s", took)
	}
	for _, f := range found {
		if f.Reason == problem.ReasonOf("neighbors") && f.Severity != problem.Error {
			t.Errorf("found %+v", f)
		}
	}
	if !slices.Contains(passed, "duplicates") {
		t.Errorf("duplicates is not among the checks that passed: %q", passed)
	}
}
