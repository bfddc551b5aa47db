package faults

import "time"

// healLimit bounds what is repaired upon the kernel's word: ten times what it should take, and more, for machines under
// load and for the race detector.
const healLimit = 250 * time.Millisecond

func routeFaults() []fault {
	return []fault{
		{
			name: "one route deleted", answer: "it is put back",
			strike: func(l *lab) { l.must(l.node.DeleteRoute(l.peer.Subnets[0])) },
			times:  5, within: healLimit, loses: untilRepaired,
		},
		{
			name: "one IPv6 route deleted", answer: "it is put back",
			strike: func(l *lab) { l.must(l.node.DeleteRoute(l.peer.Subnets[1])) },
			times:  5, within: healLimit, loses: untilRepaired,
		},
		{
			name: "IPv4 forwarding switched off", answer: "it is switched on again",
			strike: func(l *lab) { l.must(l.node.Sysctl("net/ipv4/ip_forward", "0")) },
			times:  5, within: healLimit, loses: untilRepaired,
		},
	}
}
