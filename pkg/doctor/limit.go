package doctor

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// podsOfNode is a kubelet's default for the number of pods (--max-pods).
const podsOfNode = 110

// neighborLimits compares the neighbor tables' limits with their size and what a cluster may need.
func neighborLimits(_ context.Context, t *Target) []problem.Problem {
	families := t.families()
	if _, err := t.Setting(topology.NeighSysctl(families[0], 3)); err != nil {
		return Skip("the limits of the neighbor table are not visible here: "+err.Error(), "run it in the host's network namespace")
	}
	var found []problem.Problem
	for _, family := range families {
		found = append(found, t.neighborLimit(family)...)
	}
	return found
}

func (t *Target) neighborLimit(family int) []problem.Problem {
	hardest := topology.NeighSysctl(family, 3)
	hard, errHard := t.number(hardest)
	soft, errSoft := t.number(topology.NeighSysctl(family, 2))
	have, errCount := t.Kernel.NeighborCount(family)
	if err := errors.Join(errHard, errSoft, errCount); err != nil {
		return Skip(err.Error(), "")
	}
	need := len(t.peers()) + podsOfNode
	room := max(hard, roomFor(max(need, have))) // never lower
	remedy := fmt.Sprintf("the agent raises them; if they do not stay, find what resets them, and: `sysctl -w %s=%d %s=%d`", hardest, room, topology.NeighSysctl(family, 2), room/2)
	shown := fmt.Sprintf("%d entries, room for about %d nodes and pods needed; %s is %d, gc_thresh2 %d", have, need, hardest, hard, soft)
	switch {
	case have*10 >= hard*9:
		return Fail(fmt.Sprintf("the neighbor table of IPv%d is full or nearly full; new neighbors can't be reached, and the kernel logs \"neighbour table overflow\"", family), shown, remedy)
	case need > hard:
		return Fail(fmt.Sprintf("the neighbor table of IPv%d is too small for this cluster", family), shown, remedy)
	case need > soft:
		return Warn(fmt.Sprintf("the kernel removes entries from the neighbor table of IPv%d that this cluster needs", family), shown, remedy)
	}
	return nil
}

// roomFor returns twice as much as is needed, as a power of two.
func roomFor(need int) int { return max(1024, 1<<bits.Len(uint(2*need-1))) }
