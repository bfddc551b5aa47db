package inspect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/dataplane"
)

// A Rule is a policy rule that leads packets to a table other than local and main (ip-rule(8)).
type Rule struct {
	Priority int
	// From and To are the source and the destination that it selects, the zero Prefix: any.
	From, To netip.Prefix
	Table    int
	// Selector has a value that it selects of each other field.
	Selector Selector
}

// Rules returns the rules of a family in the kernel's order, by priority.
func (i *Inspector) Rules(is4 bool) ([]Rule, error) {
	rules, err := dataplane.RetryDump(func() ([]rtnl.Rule, error) { return i.handle.RuleList(int(family(is4))) })
	if err != nil {
		return nil, fmt.Errorf("listing rules: %w", err)
	}
	var all []Rule
	for _, r := range rules {
		if r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN {
			all = append(all, Rule{max(r.Priority, 0), prefixOf(r.Src), prefixOf(r.Dst), r.Table, selectorOf(r)}) // the library has -1 for 0
		}
	}
	return all, nil
}

// maxDestinations bounds the result of Destinations.
const maxDestinations = 1024

// Destinations returns the destinations of routes in the tables of a family's rules for which wanted returns
// true, maxDestinations at most.
func (i *Inspector) Destinations(is4 bool, rules []Rule, wanted func(netip.Prefix) bool) ([]netip.Prefix, error) {
	var found []netip.Prefix
	seen := map[int]bool{unix.RT_TABLE_UNSPEC: true} // that of rules which refuse
	for _, r := range rules {
		if seen[r.Table] {
			continue
		}
		seen[r.Table] = true
		err := i.handle.RouteListFilteredIter(int(family(is4)), &rtnl.Route{Table: r.Table}, rtnl.RT_FILTER_TABLE, func(route rtnl.Route) bool {
			if p := prefixOf(route.Dst); wanted(p) {
				found = append(found, p)
			}
			return len(found) < maxDestinations
		})
		if err != nil && !errors.Is(err, rtnl.ErrDumpInterrupted) { // what was read is enough for a sample
			return nil, fmt.Errorf("listing routes of table %d: %w", r.Table, err)
		}
	}
	return found, nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr, bits)
}
