package inspect

import (
	"fmt"
	"strings"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Selector is what a rule may select packets by, besides addresses and device (ip-rule(8)). The zero value is
// any packet.
type Selector struct {
	// Protocol is the IANA number of TCP, UDP or ICMP of the packet's family; ports go with the first two.
	Protocol            uint8
	SourcePort, DstPort uint16
	// TOS is IPv4's type of service or IPv6's traffic class.
	TOS  uint8
	Mark uint32
}

// masqueradeMark is set by kube-proxy, before routing, on packets that are to get the node's address, such as those to
// node ports (masqueradeBit of its configuration is 14).
const masqueradeMark = 1 << 14

func (s Selector) String() string {
	var words []string
	names := map[uint8]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP", unix.IPPROTO_ICMP: "ICMP", unix.IPPROTO_ICMPV6: "ICMPv6"}
	if name := names[s.Protocol]; name != "" {
		words = append(words, name)
	}
	if s.SourcePort != 0 {
		words = append(words, fmt.Sprintf("from port %d", s.SourcePort))
	}
	if s.DstPort != 0 {
		words = append(words, fmt.Sprintf("to port %d", s.DstPort))
	}
	if s.TOS != 0 {
		words = append(words, fmt.Sprintf("type of service %#x", s.TOS))
	}
	if s.Mark != 0 {
		words = append(words, fmt.Sprintf("mark %#x, as kube-proxy's for masquerading", s.Mark))
	}
	return strings.Join(words, ", ")
}

// selectorOf returns a selector of packets that a rule selects and a cluster sends. The only mark in it is
// kube-proxy's, because a packet with another mark was marked for that rule.
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
