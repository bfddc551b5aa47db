package faults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/cluster"
)

// startLimit bounds what an agent that starts has to do: reach the API server, list the Nodes, look at the kernel.
const startLimit = 5 * time.Second

// wakeLimit bounds what an agent has to do that was stopped for long: its memory may have been put aside, and timers are
// due all at once.
const wakeLimit = time.Second

func processFaults() []fault {
	return []fault{
		{
			name: "SIGTERM, and started again", answer: "nothing changes while it is away or when it comes back",
			strike: func(l *lab) { l.restart(syscall.SIGTERM, func() {}) },
			times:  3, within: startLimit,
		},
		{
			name: "killed, and a route deleted before it starts again", answer: "the route is put back by the first pass",
			strike: func(l *lab) {
				l.restart(syscall.SIGKILL, func() {
					l.broken()
					l.must(l.node.DeleteRoute(l.peer.Subnets[0]))
				})
			},
			within: startLimit, loses: untilRepaired,
		},
		{
			name:    "killed at a random moment of a pass, 50 times",
			answer:  "started again, it finds all as it should be or makes it so",
			prepare: (*lab).join,
			strike:  killAtRandom, repaired: (*lab).joinedRouted, within: startLimit, slow: true,
		},
		{
			name: "stopped for 30 s, a route deleted meanwhile", answer: "the route is put back when it goes on",
			strike: stopForLong, within: wakeLimit, loses: untilRepaired, slow: true,
		},
		{
			name:   "notifications lost: the socket overflows while the agent is stopped, a route deleted meanwhile",
			answer: "everything is looked at anew, and the route put back",
			strike: overflow, within: startLimit, loses: untilRepaired,
		},
	}
}

// restart ends the agent, does something, and starts it again.
func (l *lab) restart(signal syscall.Signal, meanwhile func()) {
	l.t.Helper()
	l.must(l.node.StopAgent(signal))
	l.run(before)
	meanwhile()
	l.repairable()
	l.must(l.node.StartAgent(l.options))
	l.must(l.node.WaitReady(l.within(limit)))
}

// killAtRandom keeps passes going by taking away what no traffic needs at that moment: routes to a Node that is there in
// name only, and the CNI config. Every second agent is killed while it starts.
func killAtRandom(l *lab) {
	for life := range 50 {
		moment := rand.N(30 * time.Millisecond)
		if life%2 == 0 {
			l.must(l.node.WaitReady(l.within(limit)))
		} else {
			moment *= 5
		}
		killed := make(chan error, 1)
		time.AfterFunc(moment, func() { killed <- l.node.StopAgent(syscall.SIGKILL) })
		l.disturbUntil(killed)
		l.repairable()
		l.must(l.node.StartAgent(l.options))
	}
	l.must(l.node.WaitReady(l.within(limit)))
}

func (l *lab) disturbUntil(killed <-chan error) {
	l.t.Helper()
	for {
		l.deleteOurs(l.joined[0].subnets[rand.IntN(2)])
		if err := os.Remove(l.config()); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.t.Fatal(err)
		}
		select {
		case err := <-killed:
			l.must(err)
			return
		case <-time.After(rand.N(4 * time.Millisecond)):
		}
	}
}

// deleteOurs deletes the agent's route to a subnet if it is there.
func (l *lab) deleteOurs(subnet netip.Prefix) {
	l.t.Helper()
	l.flush(func(route netlink.Route) bool { return isOurs(route) && route.Dst.String() == subnet.String() })
}

func stopForLong(l *lab) {
	l.must(l.node.PauseAgent())
	time.Sleep(29 * time.Second)
	l.broken()
	l.must(l.node.DeleteRoute(l.peer.Subnets[0]))
	time.Sleep(time.Second)
	l.repairable()
	l.must(l.node.SignalAgent(syscall.SIGCONT))
}

// overflow changes somebody's routes until the agent's notification socket has no room left, and then ours.
func overflow(l *lab) {
	l.must(l.node.PauseAgent())
	for number := 0; l.dropped() == 0; number++ {
		if number == 200 {
			l.t.Fatalf("no notification is lost after %d changes", 2*1000*number)
		}
		l.changeRoutes(1000)
	}
	l.broken()
	l.must(l.node.DeleteRoute(l.peer.Subnets[0]))
	l.repairable()
	l.must(l.node.SignalAgent(syscall.SIGCONT))
}

// changeRoutes adds and deletes somebody's routes.
func (l *lab) changeRoutes(count int) {
	l.t.Helper()
	for number := range count {
		to := netip.AddrFrom4([4]byte{172, 29, byte(number >> 8), byte(number)})
		route := &netlink.Route{
			Dst: ipNet(netip.PrefixFrom(to, 32)), Gw: cluster.Router4.AsSlice(), Protocol: unix.RTPROT_BIRD,
		}
		l.must(l.node.Handle().RouteAdd(route))
		l.must(l.node.Handle().RouteDel(route))
	}
}

// dropped is how many notifications netlink sockets of the node have lost (Drops of /proc/net/netlink).
func (l *lab) dropped() int {
	l.t.Helper()
	total := 0
	l.must(l.node.Do(func() error {
		content, err := os.ReadFile("/proc/thread-self/net/netlink")
		if err != nil {
			return fmt.Errorf("reading the netlink sockets: %w", err)
		}
		for line := range strings.Lines(string(content)) {
			const drops = 8
			if fields := strings.Fields(line); len(fields) > drops {
				// The first line's are headings.
				count, _ := strconv.Atoi(fields[drops])
				total += count
			}
		}
		return nil
	}))
	return total
}
