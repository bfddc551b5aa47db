package dataplane

import (
	"fmt"
	"net/netip"

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

// FirstRule returns the lowest priority of the rules of a family that lead elsewhere than to the
// tables local and main (ip-rule(8)).
func (i *Inspector) FirstRule(is4 bool) (int, error) {
	family := unix.AF_INET6
	if is4 {
		family = unix.AF_INET
	}
	rules, err := retryDump(func() ([]rtnl.Rule, error) { return i.handle.RuleList(family) })
	if err != nil {
		return 0, fmt.Errorf("listing rules: %w", err)
	}
	first := mainPriority
	for _, r := range rules {
		if r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN {
			first = min(first, max(r.Priority, 0)) // the library has -1 for 0
		}
	}
	return first, nil
}

// mainPriority is that of the rule which leads to the main table (fib_default_rules_init of
// net/ipv4/fib_rules.c).
const mainPriority = 32766
