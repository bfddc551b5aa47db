package dataplane

import (
	"fmt"
	"net/netip"

	rtnl "github.com/vishvananda/netlink"
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
