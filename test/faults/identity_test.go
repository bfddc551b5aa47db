package faults

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
)

// joinLimit bounds changes that follow from a Node object alone.
const joinLimit = time.Second

func identityFaults() []fault {
	return []fault{
		peerRecreated(),
		ownNodeRecreated(),
		addressFlaps(),
		{
			name: "a peer's address changes", answer: "the route is replaced in place",
			prepare:  func(l *lab) { l.giveSpare(l.peer) },
			inject:   func(l *lab) { l.claim(l.peer, l.spare...) },
			repaired: func(l *lab) error { return l.node.goesVia(l.peer, l.spare...) },
			within:   joinLimit, loses: nothing,
		},
		{
			name: "our own address changes", answer: "the others' routes to us, and our preferred source, are replaced in place",
			prepare: func(l *lab) { l.giveSpare(l.node) },
			inject:  func(l *lab) { l.claim(l.node, l.spare...) },
			repaired: func(l *lab) error {
				return errors.Join(l.peer.goesVia(l.node, l.spare...), l.node.comesFrom(l.peer, l.spare...))
			},
			within: joinLimit, loses: nothing,
		},
		ownSubnetChanges(),
		leftWhileAway(),
		restarted(),
		begunEarly("a flow begun before its destination's Node was known", nodelab.AgentOptions{}),
		begunEarly("the same without --cluster-cidr, where it begins masqueraded", nodelab.AgentOptions{WithoutClusterCIDR: true}),
		clockStepped(),
		crowdJoins(),
		crowdLeaves(),
	}
}

// giveSpare gives a machine second addresses, before its agent starts.
func (l *lab) giveSpare(m *machine) {
	l.t.Helper()
	for _, text := range l.newcomers(1)[0].Addresses {
		l.spare = append(l.spare, netip.MustParseAddr(text))
	}
	l.must(m.AddAddresses(l.spare...))
}

// claim rewrites a Node's addresses.
func (l *lab) claim(m *machine, addresses ...netip.Addr) {
	l.t.Helper()
	l.must(l.pool.Claim(l.within(limit), m.Name, addresses...))
}

// absence is how long a Node object stays deleted.
const absence = 300 * time.Millisecond

func peerRecreated() fault {
	return fault{
		name: "a peer's Node object deleted and created again", answer: "its routes go and come with it",
		inject: func(l *lab) {
			l.must(l.peer.Deregister(l.within(limit)))
			l.must(l.node.AwaitNoRoute(l.within(limit), l.peer.Subnets...))
			time.Sleep(absence)
			l.must(l.peer.Register(l.within(limit)))
			l.repairable()
		},
		within: joinLimit, loses: untilRepaired,
	}
}

func ownNodeRecreated() fault {
	return fault{
		name:   "our own Node object deleted and created again",
		answer: "nothing of ours is touched; the others' routes to us go and come with it",
		inject: func(l *lab) {
			l.observe()
			l.must(l.node.Deregister(l.within(limit)))
			l.awaitReport(l.node, l.node.Name, problem.NodeMissing)
			time.Sleep(absence)
			l.must(l.checkOurs())
			for _, event := range l.watches[0].Drain() {
				if slices.Contains(l.peer.Subnets, event.To) {
					l.t.Errorf("a route moved: %+v", event)
				}
			}
			l.must(l.node.Register(l.within(limit)))
			l.repairable()
		},
		repaired: func(l *lab) error {
			if err := l.peer.goesVia(l.node, l.node.Addrs()...); err != nil {
				return err
			}
			return l.checkOurs()
		},
		within: joinLimit, loses: untilRepaired,
	}
}

// flaps is how often an address changes, an even number: 5 s of it.
const flaps = 50

func addressFlaps() fault {
	return fault{
		name:    "a peer's address flapping every 100 ms between two that it has",
		answer:  "the route is replaced in place, each time",
		prepare: func(l *lab) { l.giveSpare(l.peer) },
		inject: func(l *lab) {
			l.observe()
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for i := range flaps {
				<-tick.C
				l.claim(l.peer, [][]netip.Addr{l.spare, l.peer.Addrs()}[i%2]...)
			}
			l.repairable()
		},
		finally: func(l *lab) {
			for _, event := range l.moved() {
				if !event.Added {
					l.t.Errorf("a route went: %+v", event)
				}
			}
		},
		within: joinLimit, loses: nothing,
	}
}

// ownSubnetChanges cuts the old pods off, because their subnet has no owner any more; the traffic
// is over before.
func ownSubnetChanges() fault {
	return fault{
		name:   "our own podCIDR changed under running pods, which then go",
		answer: "SubnetChanged while they are there, and their config stays; then the config follows, within a second",
		inject: func(l *lab) {
			l.stopTraffic()
			config := l.node.ours["CNI config"]
			l.must(l.node.Deregister(l.within(limit)))
			old := l.node.Subnets
			l.node.Subnets = l.newcomers(1)[0].subnets
			l.must(l.node.Register(l.within(limit)))
			l.awaitReport(l.node, l.node.Name, problem.SubnetChanged)
			l.must(l.node.AwaitRoute(l.within(limit), l.node.Subnets...))
			l.must(l.node.AwaitNoRoute(l.within(limit), old...))
			now, err := l.node.ownState(l.peer)
			l.must(err)
			if now["CNI config"] != config {
				l.t.Errorf("the CNI config changed under running pods:\n%s", now["CNI config"])
			}
			l.must(l.pods[0].Remove(l.within(limit)))
			l.repairable()
		},
		repaired: func(l *lab) error {
			config, err := l.node.CNIConfig()
			if err != nil {
				return err
			}
			for _, subnet := range l.node.Subnets {
				if !strings.Contains(string(config.Bytes), subnet.String()) {
					return fmt.Errorf("the CNI config lacks %s", subnet)
				}
			}
			return l.node.ready(l)
		},
		finally: func(l *lab) {
			pod, err := l.node.AddPod(l.within(limit), "next")
			l.must(err)
			for _, address := range l.pods[1].Addrs() {
				_, err := pod.Ping(l.within(limit), address)
				l.must(err)
			}
		},
		within: 2 * time.Second, loses: nothing,
	}
}

func leftWhileAway() fault {
	return fault{
		name:   "Nodes deleted while the agent was away",
		answer: "the first pass takes their routes away, and nothing else",
		prepare: func(l *lab) {
			l.crowd = l.newcomers(3)
			l.createNodes(fakesOf(l.crowd)...)
		},
		inject: func(l *lab) {
			l.must(l.node.AwaitRoute(l.within(limit), subnetsOf(l.crowd)...))
			l.must(l.node.StopAgent(syscall.SIGKILL))
			l.must(inject.DeleteNodesIfPresent(l.within(limit), l.pool.Client(), fakesOf(l.crowd)...))
			l.observe()
			l.must(l.node.StartAgent(l.options))
			l.repairable()
		},
		repaired: func(l *lab) error {
			for _, subnet := range subnetsOf(l.crowd) {
				if via, err := l.node.via(subnet); err == nil {
					return fmt.Errorf("the route to %s is still there, via %s", subnet, via)
				}
			}
			return l.checkOurs()
		},
		finally: func(l *lab) { l.checkUnmoved() },
		within:  returnLimit, loses: nothing,
	}
}

func subnetsOf(all []newcomer) []netip.Prefix {
	var subnets []netip.Prefix
	for _, one := range all {
		subnets = append(subnets, one.subnets...)
	}
	return subnets
}

// restarted runs alone, because nodes of other labs that come and go are changes.
func restarted() fault {
	return fault{
		name:   "the agent restarted over a correct table",
		answer: "the first pass changes nothing: no notification of a route, none of nftables",
		inject: func(l *lab) {
			l.must(l.node.StopAgent(syscall.SIGTERM))
			l.observe()
			var err error
			l.tables, err = l.node.WatchTables()
			l.must(err)
			l.t.Cleanup(l.tables.Close)
			l.must(l.node.StartAgent(l.options))
			l.repairable()
		},
		repaired: func(l *lab) error { return l.node.ready(l) },
		finally: func(l *lab) {
			if events := l.watches[0].Drain(); len(events) > 0 {
				l.t.Errorf("%d routes moved; the first: %+v", len(events), events[0])
			}
			if count := l.tables.Count(); count > 0 {
				l.t.Errorf("%d notifications of nftables; want none", count)
			}
		},
		within: returnLimit, loses: nothing, alone: true,
	}
}

// clockStepped steps a day ahead and then back, for the agent alone.
func clockStepped() fault {
	return fault{
		name: "the agent's clock stepped a day ahead, and back", answer: "nothing; the next change is made at once",
		prepare: (*lab).useClock,
		inject: func(l *lab) {
			l.clock.Step(24 * time.Hour * time.Duration(1-2*len(l.joined)))
			took, err := l.node.Heal(l.within(limit), l.node.Subnets[0])
			l.must(err)
			if bound := bound(healLimit); took > bound {
				l.t.Errorf("a deleted route is back after %s; want %s", took, bound)
			}
			l.join()
			l.repairable()
		},
		repaired: (*lab).joinedRouted,
		finally: func(l *lab) {
			if l.clock.Asked() == 0 {
				l.t.Error("the agent never asked for the time")
			}
		},
		times: 2, within: joinLimit, loses: nothing,
	}
}

// many is how many Nodes come and go at once.
const many = 500

// useCrowd makes many Nodes whose addresses are on link: IPv4 needs a wider LAN, and wider ranges of pods, for it.
func (l *lab) useCrowd() {
	l.t.Helper()
	link, err := l.node.Handle().LinkByName(uplink)
	l.must(err)
	l.must(l.node.Handle().RouteAdd(&netlink.Route{
		Dst: ipNet(netip.MustParsePrefix("172.20.0.0/16")), LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
	}))
	l.options.Args = []string{"--cluster-cidr", "10.245.0.0/16,10.246.0.0/16"}
	for i := range many {
		one := newcomer{subnets: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 245+i/250, i%250)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%x::/64", 0x1000+i)),
		}}
		one.Name = fmt.Sprintf("crowd%d", i)
		one.PodCIDRs = []string{one.subnets[0].String(), one.subnets[1].String()}
		one.Addresses = []string{fmt.Sprintf("172.20.%d.%d", i/250, 1+i%250), fmt.Sprintf("fd00:192:168:1::%x", 0x1000+i)}
		l.crowd = append(l.crowd, one)
	}
}

func crowdJoins() fault {
	return fault{
		name: fmt.Sprintf("%d Nodes added at once", many), answer: "their routes are added, in as many passes as it takes",
		prepare: (*lab).useCrowd,
		inject: func(l *lab) {
			l.observe()
			l.createNodes(fakesOf(l.crowd)...)
			l.repairable()
		},
		repaired: func(l *lab) error { return l.crowdHas(2 * many) },
		finally:  func(l *lab) { l.checkUnmoved() },
		within:   2 * time.Second, loses: nothing, alone: true,
	}
}

func crowdLeaves() fault {
	return fault{
		name:   fmt.Sprintf("%d Nodes removed at once", many),
		answer: "their routes are removed, in as many passes as it takes",
		prepare: func(l *lab) {
			l.useCrowd()
			l.createNodes(fakesOf(l.crowd)...)
		},
		inject: func(l *lab) {
			l.await(func() error { return l.crowdHas(2 * many) })
			l.observe()
			l.must(inject.DeleteNodesIfPresent(l.within(limit), l.pool.Client(), fakesOf(l.crowd)...))
			l.repairable()
		},
		repaired: func(l *lab) error { return l.crowdHas(0) },
		finally:  func(l *lab) { l.checkUnmoved() },
		within:   10 * time.Second, loses: nothing, alone: true,
	}
}

// crowdHas returns an error if the node has another number of routes to the crowd.
func (l *lab) crowdHas(want int) error {
	wanted := map[string]bool{}
	for _, subnet := range subnetsOf(l.crowd) {
		wanted[subnet.String()] = true
	}
	have := 0
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := l.node.dump(family)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if route.Protocol == netlab.Protocol && wanted[route.Dst.String()] {
				have++
			}
		}
	}
	if have != want {
		return fmt.Errorf("%d routes to the crowd; want %d", have, want)
	}
	return nil
}
