package faults

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/netlab"
)

// unmoved is the answer to every claim to another Node's subnet or address.
const unmoved = "the routes to other Nodes stay"

// anAge makes a Node object older than the next: the API server stores creation times in seconds.
const anAge = 1100 * time.Millisecond

// claimFaults are Nodes with addresses and subnets that they have no right to.
func claimFaults() []fault {
	return []fault{
		claimed("two Nodes claim one subnet, and the loser is deleted", nil, func(l *lab) {
			twin := l.newcomers(1)[0].FakeNode
			twin.PodCIDRs = l.claimOf(l.peer)
			l.createNodes(twin)
			l.awaitReport(l.node, twin.Name, problem.PodCIDRDisputed)
			l.run(after)
			l.must(inject.DeleteNodes(l.within(limit), l.pool.Client(), twin))
		}),
		claimed("an older Node takes a younger one's subnet", func(l *lab) {
			l.crowd = l.newcomers(1)
			l.createNodes(inject.FakeNode{Name: l.crowd[0].Name, Addresses: l.crowd[0].Addresses})
			time.Sleep(anAge)
		}, func(l *lab) {
			l.must(l.pool.Assign(l.within(limit), l.crowd[0].Name, l.peer.Subnets...))
			l.awaitReport(l.node, l.crowd[0].Name, problem.PodCIDRDisputed)
		}),
		claimed("an older Node takes a peer's address, then its subnet, then its own address again", func(l *lab) {
			l.crowd = l.newcomers(1)
			l.createNodes(inject.FakeNode{Name: l.crowd[0].Name, Addresses: l.crowd[0].Addresses})
			time.Sleep(anAge)
		}, func(l *lab) {
			thief := l.crowd[0]
			l.must(l.pool.Claim(l.within(limit), thief.Name, l.peer.Addrs()...))
			l.must(l.pool.Assign(l.within(limit), thief.Name, l.peer.Subnets...))
			l.run(after)
			var own []netip.Addr
			for _, address := range thief.Addresses {
				own = append(own, netip.MustParseAddr(address))
			}
			l.must(l.pool.Claim(l.within(limit), thief.Name, own...))
			l.awaitReport(l.node, thief.Name, problem.PodCIDRDisputed)
		}),
		claimed("a cloned machine claims our address", nil, func(l *lab) {
			clone := l.newcomers(1)[0].FakeNode
			clone.Addresses = []string{l.node.V4.String(), l.node.V6.String()}
			l.createNodes(clone)
			l.awaitReport(l.node, clone.Name, problem.AddressRefused)
			l.awaitShared(l.peer, clone.Name)
		}),
		claimed("a compromised kubelet claims the addresses of all Nodes", func(l *lab) {
			l.crowd = l.newcomers(1)
			l.createNodes(fakesOf(l.crowd)...)
		}, func(l *lab) {
			all := slices.Concat(l.node.Addrs(), l.peer.Addrs(), []netip.Addr{netlab.Router4, netlab.Router6})
			l.must(l.pool.Claim(l.within(limit), l.crowd[0].Name, all...))
			l.awaitShared(l.node, l.crowd[0].Name)
			l.awaitShared(l.peer, l.crowd[0].Name)
		}),
		claimedRange("a compromised kubelet claims a wider subnet", -2, problem.PodCIDRDisputed),
		claimedRange("a compromised kubelet claims a narrower subnet", +1, problem.PodCIDRDisputed),
	}
}

// claimed is a claim that must not move any route.
func claimed(name string, prepare, do func(*lab)) fault {
	return fault{
		name: name, answer: unmoved, prepare: prepare,
		inject: func(l *lab) {
			l.observe()
			do(l)
			l.run(after)
			l.repairable()
		},
		finally: func(l *lab) { l.checkUnmoved() },
		within:  joinLimit, loses: nothing,
	}
}

// awaitShared waits until the agent reports that two Nodes, one of which is given, have one address. Under whose name it
// does so follows from their subnets.
func (l *lab) awaitShared(m *machine, node string) {
	l.t.Helper()
	l.await(func() error {
		problems, err := m.problems(l.t.Context())
		if err != nil {
			return err
		}
		for _, p := range problems {
			named := p.Node == node || strings.Contains(p.Message, "node "+node+";")
			if p.Reason == problem.AddressShared && named {
				return nil
			}
		}
		return fmt.Errorf("/status of %s does not report that %s shares an address: %v", m.Name, node, problems)
	})
}

// claimedRange is a claim to the peer's subnets, longer or shorter by some bits.
func claimedRange(name string, bits int, reason problem.Reason) fault {
	return claimed(name, nil, func(l *lab) {
		fake := l.newcomers(1)[0].FakeNode
		fake.PodCIDRs = nil
		for _, subnet := range l.peer.Subnets {
			claim := netip.PrefixFrom(subnet.Addr(), subnet.Bits()+bits).Masked()
			fake.PodCIDRs = append(fake.PodCIDRs, claim.String())
		}
		l.createNodes(fake)
		l.awaitReport(l.node, fake.Name, reason)
	})
}

// claimOf are a machine's subnets as a Node object has them.
func (l *lab) claimOf(m *machine) []string {
	return []string{m.Subnets[0].String(), m.Subnets[1].String()}
}
