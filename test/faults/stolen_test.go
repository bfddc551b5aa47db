package faults

import (
	"errors"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/inject"
)

// stolenFaults are claims that wait for the moment when the rightful Node's address changes.
func stolenFaults() []fault {
	return []fault{
		movesUnderDispute("a peer's address changes while an older Node claims its subnet", func(l *lab) {
			l.createNodes(inject.FakeNode{Name: l.crowd[0].Name, Addresses: l.crowd[0].Addresses})
			time.Sleep(anAge)
		}, func(l *lab) {
			l.must(l.pool.Assign(l.within(limit), l.crowd[0].Name, l.peer.Subnets...))
		}),
		movesUnderDispute("a peer's address changes while a younger Node claims its subnet and its former address", nil, func(l *lab) {
			thief := l.crowd[0].FakeNode
			thief.PodCIDRs = l.claimOf(l.peer)
			thief.Addresses = append(thief.Addresses, l.peer.V4.String(), l.peer.V6.String())
			l.createNodes(thief)
		}),
	}
}

func movesUnderDispute(name string, prepare, claim func(*lab)) fault {
	return fault{
		name: name, answer: "the route is replaced in place, and stays its Node's",
		prepare: func(l *lab) {
			l.crowd = l.newcomers(1)
			if prepare != nil {
				prepare(l)
			}
			l.giveSpare(l.peer)
		},
		inject: func(l *lab) {
			claim(l)
			l.awaitReport(l.node, l.crowd[0].Name, problem.PodCIDRDisputed)
			l.broken()
			l.claim(l.peer, l.spare...)
			l.repairable()
		},
		repaired: func(l *lab) error {
			return errors.Join(l.node.goesVia(l.peer, l.spare...), l.peer.sendsFrom(l.spare), l.node.acceptsFrom(l.spare))
		},
		within: joinLimit, loses: nothing,
	}
}
