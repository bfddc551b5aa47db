package dataplane

import (
	"fmt"
	"net"
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
	way, err := i.way(to, options)
	return way.Via, way.Dev, err
}

// Way is how the kernel sends a packet to an address, policy rules and all.
type Way struct {
	Dev string
	// Via is the gateway; the zero Addr: the address is on link.
	Via netip.Addr
	// MTU is what the route sets it to; 0: the device's. What routers have told of the path
	// is not in it.
	MTU int
}

// WayTo asks the kernel, as `ip route get` does.
func (i *Inspector) WayTo(to netip.Addr) (Way, error) {
	way, err := i.way(to, nil)
	if err != nil {
		return Way{}, err
	}
	if entry, err := i.handle.RouteGetWithOptions(to.AsSlice(), &rtnl.RouteGetOptions{FIBMatch: true}); err == nil {
		way.MTU = entry[0].MTU
	}
	return way, nil
}

// way asks for one route, which is what the kernel answers if it is not an error.
func (i *Inspector) way(to netip.Addr, options *rtnl.RouteGetOptions) (Way, error) {
	routes, err := i.handle.RouteGetWithOptions(to.AsSlice(), options)
	if err != nil {
		return Way{}, fmt.Errorf("looking up %s: %w", to, err)
	}
	link, err := i.handle.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return Way{}, fmt.Errorf("looking up the device towards %s: %w", to, err)
	}
	via, _ := netip.AddrFromSlice(routes[0].Gw)
	return Way{Dev: link.Attrs().Name, Via: via.Unmap()}, nil
}

// A Rule leads packets to another table than local and main (ip-rule(8)).
type Rule struct {
	Priority int
	// From and To are what a packet must come from and go to; the zero Prefix: any.
	From, To netip.Prefix
	Table    int
	// Kind is that of packets which it is for.
	Kind PacketKind
}

// Rules returns the rules of a family in the order of the kernel, by their priorities.
func (i *Inspector) Rules(is4 bool) ([]Rule, error) {
	rules, err := retryDump(func() ([]rtnl.Rule, error) { return i.handle.RuleList(ruleFamily(is4)) })
	if err != nil {
		return nil, fmt.Errorf("listing rules: %w", err)
	}
	var all []Rule
	for _, r := range rules {
		if r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN {
			all = append(all, Rule{max(r.Priority, 0), rulePrefix(r.Src), rulePrefix(r.Dst), r.Table, selectedBy(r)}) // the library has -1 for 0
		}
	}
	return all, nil
}

func ruleFamily(is4 bool) int {
	if is4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func rulePrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	return prefixOf(n.IP, n.Mask)
}
