package inspect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/dataplane"
)

// A Rule is a policy rule that leads packets to a table other than local and main (ip-rule(8)).
type Rule struct {
	Priority int
	From, To netip.Prefix // the source and the destination that it selects, the zero Prefix: any
	Table    int
	Selector Selector // has a value that it selects of each other field
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

// Destinations returns the destinations of routes in the tables of a family's rules for which
// wanted returns true, maxDestinations at most.
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

// A Selector is what a rule may select packets by, besides addresses and device (ip-rule(8)). The
// zero value is any packet.
type Selector struct {
	Protocol            uint8  // the IANA number of TCP, UDP or ICMP of the packet's family
	SourcePort, DstPort uint16 // of TCP and UDP
	TOS                 uint8  // IPv4's type of service or IPv6's traffic class
	Mark                uint32
}

// masqueradeMark is set by kube-proxy, before routing, on packets that are to get the node's
// address, such as those to node ports (masqueradeBit of its configuration is 14).
const masqueradeMark = 1 << 14

func (s Selector) String() string {
	names := map[uint8]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP", unix.IPPROTO_ICMP: "ICMP", unix.IPPROTO_ICMPV6: "ICMPv6"}
	var words []string
	add := func(set bool, format string, value any) {
		if set {
			words = append(words, fmt.Sprintf(format, value))
		}
	}
	add(names[s.Protocol] != "", "%s", names[s.Protocol])
	add(s.SourcePort != 0, "from port %d", s.SourcePort)
	add(s.DstPort != 0, "to port %d", s.DstPort)
	add(s.TOS != 0, "type of service %#x", s.TOS)
	add(s.Mark != 0, "mark %#x, as kube-proxy's for masquerading", s.Mark)
	return strings.Join(words, ", ")
}

// selectorOf returns a selector of packets that a rule selects and a cluster sends. The only mark
// in it is kube-proxy's, because a packet with another mark was marked for that rule.
func selectorOf(r rtnl.Rule) Selector {
	if r.Invert {
		return Selector{}
	}
	s := Selector{Protocol: uint8(r.IPProto), TOS: uint8(r.Tos)}
	if r.Sport != nil {
		s.SourcePort = r.Sport.Start
	}
	if r.Dport != nil {
		s.DstPort = r.Dport.Start
	}
	if s.Protocol == 0 && (s.SourcePort != 0 || s.DstPort != 0) {
		s.Protocol = unix.IPPROTO_TCP
	}
	if r.Mask != nil && r.Mark != 0 && masqueradeMark&*r.Mask == r.Mark {
		s.Mark = masqueradeMark
	}
	return s
}
