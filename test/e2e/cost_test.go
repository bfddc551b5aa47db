package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/testutil"
)

const (
	// memoryLimit is of resident memory, the program's own text included, and processorLimit of a core: what an idle
	// agent may cost.
	memoryLimit    = 40 << 20
	processorLimit = 0.005
	// idleTime is the minimum length of a measurement.
	idleTime = 10 * time.Second
)

// cost is an agent's CPU time so far, and its memory now.
type cost struct {
	at        time.Time
	processor time.Duration
	resident  int
}

// idleness is when the agents had nothing more to do, and their cost until then.
type idleness map[string]cost

// costs looks at the agent's process on each node. The kernel counts a thread's time in nanoseconds in its schedstat.
func (s *story) costs(ctx context.Context) (idleness, error) {
	nodes, err := s.cluster.nodes(ctx)
	if err != nil {
		return nil, err
	}
	found := idleness{}
	for _, one := range nodes {
		text, err := onNode(ctx, one.name, `
			for process in /proc/[0-9]*; do
				[ "$(cat $process/comm 2>/dev/null)" = plainroute ] || continue
				sed -n 's/^VmRSS:/resident/p' $process/status
				sed 's/^/processor /' $process/task/*/schedstat
			done`)
		if err != nil {
			return nil, err
		}
		if found[one.name], err = parseCost(text); err != nil {
			return nil, fmt.Errorf("reading what the agent of node %s costs: %w", one.name, err)
		}
	}
	return found, nil
}

func parseCost(text string) (cost, error) {
	sum := cost{at: time.Now()}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return cost{}, fmt.Errorf("parsing %q", line)
		}
		value, err := strconv.Atoi(fields[1])
		if err != nil {
			return cost{}, err
		}
		if fields[0] == "resident" {
			sum.resident += value << 10
		} else {
			sum.processor += time.Duration(value)
		}
	}
	if sum.resident == 0 {
		return cost{}, fmt.Errorf("finding its process in %q", text)
	}
	return sum, nil
}

// cheap compares with the agents' cost when the pods had started; no Node has changed since.
func (s *story) cheap(ctx context.Context, t *testing.T) {
	needsNodes(t)
	await(ctx, t, "time to pass", func(context.Context) error {
		for name, before := range s.idle {
			if passed := time.Since(before.at); passed < idleTime {
				return fmt.Errorf("node %s has been idle for %s", name, passed)
			}
		}
		return nil
	})
	costs, err := s.costs(ctx)
	testutil.Must(t, err)
	for name, now := range costs {
		passed := now.at.Sub(s.idle[name].at)
		share := float64(now.processor-s.idle[name].processor) / float64(passed)
		t.Logf("node %s: %.1f MiB resident; %.2f millicores, over %.0f s", name, float64(now.resident)/(1<<20), 1000*share, passed.Seconds())
		if now.resident > memoryLimit || share > processorLimit {
			t.Errorf("the agent of node %s costs more than %d MiB or %.0f millicores", name, memoryLimit>>20, 1000*processorLimit)
		}
	}
}
