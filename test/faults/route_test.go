package faults

import "time"

// healLimit bounds repairs that a notification of the kernel causes: ten times what it should take,
// and more, for machines under load and for the race detector.
const healLimit = 250 * time.Millisecond

func routeFaults() []fault {
	return []fault{
		{
			name: "one route deleted", answer: "it is put back",
			inject: func(l *lab) { l.must(l.node.DeleteRoute(l.peer.Subnets[0])) },
			times:  5, within: healLimit, loses: untilRepaired,
		},
		{
			name: "one IPv6 route deleted", answer: "it is put back",
			inject: func(l *lab) { l.must(l.node.DeleteRoute(l.peer.Subnets[1])) },
			times:  5, within: healLimit, loses: untilRepaired,
		},
		{
			name: "all of plainroute's routes deleted", answer: "they are put back",
			inject: func(l *lab) { l.flush(isOurs) },
			times:  3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "`ip route flush table main`",
			answer: "connected, default and static routes are not plainroute's to restore: here `ip route restore` does; " +
				"its own are put back then",
			inject: flushMain, within: healLimit, loses: untilRepaired,
		},
		{
			name:   "uplink down and up",
			answer: "the host's network manager restores IPv6 addresses and static routes; plainroute's routes follow",
			inject: linkFlap, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the uplink's addresses removed and added again",
			answer: "the kernel removes all routes by way of them; the host's network manager restores its own, " +
				"plainroute's follow",
			inject: addressLoss, within: healLimit, loses: untilRepaired,
		},
		{
			name:   "uplink down, its addresses removed, up, and added again",
			answer: "both of the above",
			inject: linkAndAddressLoss, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the bridge's IPv4 address deleted", answer: "it is given back",
			inject: func(l *lab) { l.removeGateway(l.node.Subnets[0]) },
			times:  3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the bridge's IPv6 address deleted", answer: "it is given back",
			inject: func(l *lab) { l.removeGateway(l.node.Subnets[1]) },
			times:  3, within: healLimit, loses: untilRepaired,
		},
	}
}

// lapse is how long a host is left without what it needs, before that is restored.
const lapse = 300 * time.Millisecond

func flushMain(l *lab) {
	saved := l.save()
	l.broken()
	l.flush(isAny)
	time.Sleep(lapse)
	l.restore(saved)
	l.repairable()
}

// linkFlap loses routes by way of the uplink, IPv6 addresses too, which the kernel doesn't give back by itself.
func linkFlap(l *lab) {
	saved := l.save()
	l.broken()
	l.linkDown()
	time.Sleep(lapse)
	l.linkUp()
	l.giveAddress(l.node.V6)
	l.restore(saved)
	l.repairable()
}

func addressLoss(l *lab) {
	saved := l.save()
	l.broken()
	for _, address := range l.node.Addrs() {
		l.removeAddress(address)
	}
	time.Sleep(lapse)
	for _, address := range l.node.Addrs() {
		l.giveAddress(address)
	}
	l.restore(saved)
	l.repairable()
}

func linkAndAddressLoss(l *lab) {
	saved := l.save()
	l.broken()
	l.linkDown()
	l.removeAddress(l.node.V4)
	time.Sleep(lapse)
	l.linkUp()
	for _, address := range l.node.Addrs() {
		l.giveAddress(address)
	}
	l.restore(saved)
	l.repairable()
}
