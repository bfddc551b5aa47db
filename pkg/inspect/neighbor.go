package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/dataplane"
)

// NeighborState is the state of a neighbor table entry, as ip-neigh(8) prints it.
type NeighborState string

// The states of a neighbor. In those from Stale to Probe its MAC address may be outdated.
const (
	Incomplete NeighborState = "INCOMPLETE"
	Reachable  NeighborState = "REACHABLE"
	Stale      NeighborState = "STALE"
	Delay      NeighborState = "DELAY"
	Probe      NeighborState = "PROBE"
	Failed     NeighborState = "FAILED"
	NoARP      NeighborState = "NOARP"
	Permanent  NeighborState = "PERMANENT"
)

var neighborStates = map[int]NeighborState{
	unix.NUD_INCOMPLETE: Incomplete, unix.NUD_REACHABLE: Reachable, unix.NUD_STALE: Stale, unix.NUD_DELAY: Delay,
	unix.NUD_PROBE: Probe, unix.NUD_FAILED: Failed, unix.NUD_NOARP: NoARP, unix.NUD_PERMANENT: Permanent,
}

// Neighbor is an entry of the kernel's neighbor table.
type Neighbor struct {
	Addr  netip.Addr
	Dev   string
	MAC   string // empty while it is not known
	State NeighborState
}

// String returns the entry as ip-neigh(8) prints it.
func (n Neighbor) String() string {
	return fmt.Sprintf("%s dev %s %s%s", n.Addr, n.Dev, choose(n.MAC != "", "lladdr "+n.MAC+" ", ""), n.State)
}

// Neighbors returns those of both families, without the kernel's entries for multicast groups.
func (i *Inspector) Neighbors() ([]Neighbor, error) {
	_, names, err := i.links()
	if err != nil {
		return nil, err
	}
	var all []Neighbor
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		entries, err := dataplane.RetryDump(func() ([]rtnl.Neigh, error) { return i.handle.NeighList(0, family) })
		if err != nil {
			return nil, fmt.Errorf("listing neighbors: %w", err)
		}
		for _, e := range entries {
			addr, _ := netip.AddrFromSlice(e.IP)
			if e.State == unix.NUD_NOARP && addr.IsMulticast() {
				continue
			}
			all = append(all, Neighbor{addr.Unmap(), names[e.LinkIndex], e.HardwareAddr.String(), neighborStates[e.State]})
		}
	}
	slices.SortFunc(all, func(a, b Neighbor) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Dev, b.Dev)) })
	return all, nil
}

// ProbeNeighbor has dataplane.ProbeNeighbor probe a neighbor.
func (i *Inspector) ProbeNeighbor(n Neighbor) error {
	link, err := i.handle.LinkByName(n.Dev)
	if err == nil {
		err = dataplane.ProbeNeighbor(i.handle, link.Attrs().Index, n.Addr)
	}
	if err != nil {
		return fmt.Errorf("asking %s: %w", n.Addr, err)
	}
	return nil
}

// NeighborCount returns the number of entries of a family, 4 or 6, that count against the limits of
// the neighbor table. The kernel shows the number of those of all network namespaces together, in the
// initial one alone; in another the result is the number in this namespace. Permanent entries, such
// as a tunnel's for each peer, don't count (neigh_alloc in the kernel), but are in the number that it
// shows.
func (i *Inspector) NeighborCount(family int) (int, error) {
	all, err := i.Neighbors()
	if err != nil {
		return 0, err
	}
	all = slices.DeleteFunc(all, func(e Neighbor) bool { return e.Addr.Is4() != (family == 4) })
	counted := slices.DeleteFunc(slices.Clone(all), func(e Neighbor) bool { return e.State == Permanent })
	name := map[int]string{4: "arp_cache", 6: "ndisc_cache"}[family]
	content, err := os.ReadFile("/proc/thread-self/net/stat/" + name)
	if err != nil {
		return len(counted), nil
	}
	shown, err := parseCount(string(content))
	return shown - (len(all) - len(counted)), err
}

// parseCount reads the column "entries", which is the same in each CPU's row (neigh_stat_seq_show).
func parseCount(stat string) (n int, err error) {
	header, row, _ := strings.Cut(stat, "\n")
	if _, err := fmt.Sscanf(row, "%x", &n); err != nil || !strings.HasPrefix(header, "entries") {
		return 0, fmt.Errorf("reading the neighbor table's statistics: unexpected %q", stat)
	}
	return n, nil
}
