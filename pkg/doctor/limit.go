package doctor

import (
	"context"
	"fmt"
	"strconv"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// podsOfNode is how many pods a kubelet takes unless told otherwise (--max-pods).
const podsOfNode = 110

// neighbourLimits compares the limits of the neighbour tables with what is in them and
// with what this cluster may put there: a full one cuts off whoever comes last.
func neighbourLimits(_ context.Context, p *Patient) []problem.Problem {
	if p.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	families := p.families()
	if _, err := p.Setting(topology.NeighSysctl(families[0], 3)); err != nil {
		return Skip("the limits of the neighbour table can't be seen from here: "+err.Error(), "run it in the host's network namespace")
	}
	var found []problem.Problem
	for _, family := range families {
		found = append(found, p.neighbourLimit(family)...)
	}
	return found
}

func (p *Patient) neighbourLimit(family int) []problem.Problem {
	hardest := topology.NeighSysctl(family, 3)
	hard, err := p.threshold(hardest)
	if err != nil {
		return Skip(err.Error(), "")
	}
	soft, err := p.threshold(topology.NeighSysctl(family, 2))
	if err != nil {
		return Skip(err.Error(), "")
	}
	have, err := p.Kernel.NeighborCount(family)
	if err != nil {
		return Skip(err.Error(), "")
	}
	need := len(p.peers()) + podsOfNode
	room := max(hard, roomFor(max(need, have))) // never lower
	cure := fmt.Sprintf("the agent raises them; if they do not stay, find what resets them, and: `sysctl -w %s=%d %s=%d`", hardest, room, topology.NeighSysctl(family, 2), room/2)
	shown := fmt.Sprintf("%d entries, room for about %d nodes and pods needed; %s is %d, gc_thresh2 %d", have, need, hardest, hard, soft)
	switch {
	case have*10 >= hard*9:
		return []problem.Problem{Fail(fmt.Sprintf("the neighbour table of IPv%d is full or about to be; whoever comes last can't be reached, and the kernel says \"neighbour table overflow\"", family), shown, cure)}
	case need > hard:
		return []problem.Problem{Fail(fmt.Sprintf("the neighbour table of IPv%d has no room for this cluster", family), shown, cure)}
	case need > soft:
		return []problem.Problem{Warn(fmt.Sprintf("the kernel throws entries out of the neighbour table of IPv%d that this cluster needs", family), shown, cure)}
	}
	return nil
}

// roomFor is twice as much as is needed, in powers of two.
func roomFor(need int) int {
	room := 1024
	for room < 2*need {
		room *= 2
	}
	return room
}

func (p *Patient) threshold(path string) (int, error) {
	value, err := p.Setting(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(value)
}
