package doctor

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/plainroute/plainroute/pkg/inspect"
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
	need := t.neighborsNeeded(family) + podsOfNode
	room := max(hard, roomFor(max(need, have))) // never lower
	remedy := fmt.Sprintf("the agent raises them; if they do not stay, find what resets them, and: `sysctl -w %s=%d %s=%d`", hardest, room, topology.NeighSysctl(family, 2), room/2)
	shown := fmt.Sprintf("%d entries, room for about %d neighbors and pods needed; %s is %d, gc_thresh2 %d", have, need, hardest, hard, soft)
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

// neighborsNeeded counts the addresses that packets to peers' InternalIPs are sent to on links of this host.
// Peers behind a gateway share its entry, also those in a tunnel, whose own entries need no room.
func (t *Target) neighborsNeeded(family int) int {
	hops := map[netip.Addr]bool{}
	for _, p := range t.peers() {
		for _, addr := range p.hops() {
			if familyOf(addr) == family {
				route, _ := t.Kernel.Lookup(addr, "", netip.Addr{}, inspect.Selector{}) // without one the address counts
				hops[cmp.Or(route.Via, addr)] = true
			}
		}
	}
	return len(hops)
}

// roomFor returns twice as much as is needed, as a power of two.
func roomFor(need int) int { return max(1024, 1<<bits.Len(uint(2*need-1))) }

const (
	conntrackCount = "net/netfilter/nf_conntrack_count"
	conntrackMax   = "net/netfilter/nf_conntrack_max"
)

// conntrack looks for a full table of tracked connections: the kernel then drops the first packet
// of each new connection, and reports it only in its log.
func conntrack(_ context.Context, t *Target) []problem.Problem {
	count, err := t.number(conntrackCount)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing is tracked
	}
	most, maxErr := t.number(conntrackMax)
	if err := errors.Join(err, maxErr); err != nil {
		return Skip("reading how many connections are tracked: "+err.Error(), "")
	}
	statistics, err := os.Open("/proc/thread-self/net/stat/nf_conntrack")
	early := 0
	if err == nil { // a kernel without CONFIG_NF_CONNTRACK_PROCFS has none
		early = sumOf(statistics, "early_drop")
		_ = statistics.Close()
	}
	return conntrackProblems(count, most, early)
}

// conntrackProblems judges the count of entries by their maximum (0: no limit) and by early, the
// number of those that were dropped since boot to make room, which are those without a reply.
func conntrackProblems(count, most, early int) []problem.Problem {
	shown := fmt.Sprintf("%s is %d, %s is %d", conntrackCount, count, conntrackMax, most)
	if early > 0 {
		shown += fmt.Sprintf("; early_drop of /proc/net/stat/nf_conntrack is %d", early)
	}
	remedy := fmt.Sprintf("find what opens so many (conntrack -L), and raise kube-proxy's limit (conntrack.maxPerCore, conntrack.min of its config), because it resets the setting when it starts; until then: `sysctl -w %s=%d`", conntrackMax, 2*most)
	switch {
	case most > 0 && count >= most-most/10:
		return Fail("the table of tracked connections is full or nearly full; then the kernel drops new connections, of pods and nodes, and logs \"nf_conntrack: table full, dropping packet\"", shown, remedy)
	case most > 0 && early > 0 && count >= most-most/4:
		return Warn("the table of tracked connections was full since the last boot, and has little room left", shown, remedy)
	}
	return nil
}

// sumOf adds up a column of all CPUs. Below the line of names there is a line per CPU, in
// hexadecimal (ct_cpu_seq_show of net/netfilter/nf_conntrack_standalone.c).
func sumOf(statistics io.Reader, name string) int {
	lines := bufio.NewScanner(statistics)
	if !lines.Scan() {
		return 0
	}
	column, sum := slices.Index(strings.Fields(lines.Text()), name), 0
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); column >= 0 && column < len(fields) {
			n, _ := strconv.ParseUint(fields[column], 16, 32) // an invalid number counts as 0
			sum += int(n)
		}
	}
	return sum
}
