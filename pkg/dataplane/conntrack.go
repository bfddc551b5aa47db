package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// release forgets the bindings of flows that were masqueraded on their way to
// destinations which, since now, see a pod's own address: a binding outlives the
// rule that made it. Who was reached by way of a Service keeps its binding, for
// kube-proxy might choose another pod for what goes on.
func (k *Kernel) release(m *topology.Masquerade, destinations []netip.Prefix) error {
	if m == nil || len(m.Sources) == 0 || len(destinations) == 0 {
		return nil
	}
	masqueraded := bound(func(from, to netip.Addr) bool {
		return contains(m.Sources, from) && contains(destinations, to)
	})
	for _, family := range []rtnl.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, err := k.handle.ConntrackDeleteFilters(rtnl.ConntrackTable, family, masqueraded)
		// Without ctnetlink, bindings can't be seen; and what changed during the
		// look is younger than the rule.
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, rtnl.ErrDumpInterrupted) {
			return fmt.Errorf("forgetting NAT bindings: %w", err)
		}
	}
	return nil
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// bound accepts flows with another source address on the wire than their own, and
// no other destination, by both.
type bound func(from, to netip.Addr) bool

// MatchConntrackFlow makes it a filter of conntrack's entries: the reply tells
// what is on the wire.
func (b bound) MatchConntrackFlow(flow *rtnl.ConntrackFlow) bool {
	from, to := addrOf(flow.Forward.SrcIP), addrOf(flow.Forward.DstIP)
	return addrOf(flow.Reverse.DstIP) != from && addrOf(flow.Reverse.SrcIP) == to && b(from, to)
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
