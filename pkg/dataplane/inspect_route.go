package dataplane

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Lookup asks the kernel where a packet goes, by all tables and rules (RTM_GETROUTE):
// one of this host's own, or, with a device and a source, one that comes in there. The
// gateway is invalid where the destination is on link.
func (i *Inspector) Lookup(to netip.Addr, dev string, from netip.Addr) (via netip.Addr, out string, err error) {
	options := &rtnl.RouteGetOptions{Iif: dev}
	if from.IsValid() {
		options.SrcAddr = from.AsSlice()
	}
	routes, err := i.handle.RouteGetWithOptions(to.AsSlice(), options)
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("looking up %s: %w", to, err)
	}
	if len(routes) == 0 {
		return netip.Addr{}, "", fmt.Errorf("looking up %s: no answer", to)
	}
	via, _ = netip.AddrFromSlice(routes[0].Gw)
	if link, err := i.handle.LinkByIndex(routes[0].LinkIndex); err == nil {
		out = link.Attrs().Name
	}
	return via.Unmap(), out, nil
}

// A Rule leads packets to another table than local and main (ip-rule(8)).
type Rule struct {
	Priority int
	// From and To are what a packet must come from and go to; the zero Prefix: any.
	From, To netip.Prefix
}

// Rules returns the rules of a family, by their priorities.
func (i *Inspector) Rules(is4 bool) ([]Rule, error) {
	family := unix.AF_INET6
	if is4 {
		family = unix.AF_INET
	}
	rules, err := retryDump(func() ([]rtnl.Rule, error) { return i.handle.RuleList(family) })
	if err != nil {
		return nil, fmt.Errorf("listing rules: %w", err)
	}
	var all []Rule
	for _, r := range rules {
		if r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN {
			all = append(all, Rule{max(r.Priority, 0), rulePrefix(r.Src), rulePrefix(r.Dst)}) // the library has -1 for 0
		}
	}
	slices.SortStableFunc(all, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	return all, nil
}

func rulePrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	return prefixOf(n.IP, n.Mask)
}
