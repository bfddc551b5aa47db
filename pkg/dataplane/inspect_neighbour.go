package dataplane

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NeighbourState is how well the kernel knows the MAC address of a neighbour, in the
// words of ip-neighbour(8).
type NeighbourState string

// The states of a neighbour. Those from Stale to Probe were known once and may be gone.
const (
	Incomplete NeighbourState = "INCOMPLETE"
	Reachable  NeighbourState = "REACHABLE"
	Stale      NeighbourState = "STALE"
	Delay      NeighbourState = "DELAY"
	Probe      NeighbourState = "PROBE"
	Failed     NeighbourState = "FAILED"
	NoARP      NeighbourState = "NOARP"
	Permanent  NeighbourState = "PERMANENT"
)

var neighbourStates = map[int]NeighbourState{
	unix.NUD_INCOMPLETE: Incomplete, unix.NUD_REACHABLE: Reachable, unix.NUD_STALE: Stale, unix.NUD_DELAY: Delay,
	unix.NUD_PROBE: Probe, unix.NUD_FAILED: Failed, unix.NUD_NOARP: NoARP, unix.NUD_PERMANENT: Permanent,
}

// Neighbour is an entry of the kernel's neighbour table.
type Neighbour struct {
	Addr netip.Addr
	Dev  string
	// MAC is empty while it is not known.
	MAC   string
	State NeighbourState
}

// String gives the entry as ip-neighbour(8) does.
func (n Neighbour) String() string {
	if n.MAC == "" {
		return fmt.Sprintf("%s dev %s %s", n.Addr, n.Dev, n.State)
	}
	return fmt.Sprintf("%s dev %s lladdr %s %s", n.Addr, n.Dev, n.MAC, n.State)
}

// Neighbours lists the neighbours of both families, less those that the kernel needs
// for itself: multicast groups and the like, which are NOARP.
func (i *Inspector) Neighbours() ([]Neighbour, error) {
	_, names, err := i.links()
	if err != nil {
		return nil, err
	}
	var all []Neighbour
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		entries, err := retryDump(func() ([]rtnl.Neigh, error) { return i.handle.NeighList(0, family) })
		if err != nil {
			return nil, fmt.Errorf("listing neighbours: %w", err)
		}
		for _, e := range entries {
			addr, _ := netip.AddrFromSlice(e.IP)
			if e.State == unix.NUD_NOARP && addr.IsMulticast() {
				continue
			}
			all = append(all, Neighbour{addr.Unmap(), names[e.LinkIndex], e.HardwareAddr.String(), neighbourStates[e.State]})
		}
	}
	slices.SortFunc(all, func(a, b Neighbour) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Dev, b.Dev)) })
	return all, nil
}

// Ask has the kernel ask a neighbour whom it knows whether it is still there, once a
// second and three times in all (arp(7): ucast_solicit, retrans_time). Meanwhile
// packets go to where they went. It takes CAP_NET_ADMIN.
func (i *Inspector) Ask(n Neighbour) error {
	link, err := i.handle.LinkByName(n.Dev)
	if err != nil {
		return fmt.Errorf("asking %s: %w", n.Addr, err)
	}
	err = i.handle.NeighSet(&rtnl.Neigh{LinkIndex: link.Attrs().Index, IP: n.Addr.AsSlice(), State: unix.NUD_PROBE})
	if err != nil {
		return fmt.Errorf("asking %s: %w", n.Addr, err)
	}
	return nil
}

// Cards returns the MAC addresses of this host's own devices, empty for those that have none.
func (i *Inspector) Cards() (map[string]string, error) {
	links, _, err := i.links()
	if err != nil {
		return nil, err
	}
	cards := map[string]string{}
	for _, l := range links {
		cards[l.Attrs().Name] = l.Attrs().HardwareAddr.String()
	}
	return cards, nil
}

// NeighbourCount returns how many entries there are in the table of a family, 4 or 6,
// that count against its limits. The kernel counts those of all network namespaces
// together, and shows that in the initial one alone; elsewhere ours are counted.
func (i *Inspector) NeighbourCount(family int) (int, error) {
	name := map[int]string{4: "arp_cache", 6: "ndisc_cache"}[family]
	if content, err := os.ReadFile("/proc/thread-self/net/stat/" + name); err == nil {
		return parseCount(string(content))
	}
	all, err := i.Neighbours()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range all {
		if e.Addr.Is4() == (family == 4) && e.State != Permanent {
			n++
		}
	}
	return n, nil
}

// parseCount reads the column "entries" of the table's statistics, a row for each CPU
// (neigh_stat_seq_show of net/core/neighbour.c).
func parseCount(stat string) (int, error) {
	lines := strings.SplitN(stat, "\n", 3)
	if len(lines) < 2 || !strings.HasPrefix(lines[0], "entries") {
		return 0, fmt.Errorf("reading the neighbour table's statistics: unexpected %q", lines[0])
	}
	field, _, _ := strings.Cut(strings.TrimSpace(lines[1]), " ")
	n, err := strconv.ParseInt(field, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("reading the neighbour table's statistics: %w", err)
	}
	return int(n), nil
}
