package faults

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	flapInterval = 100 * time.Millisecond
	flapTime     = 20 * time.Second
	// flapCPU is how much of a processor the agent may use meanwhile.
	flapCPU = 0.05
	// freeRepairs is how many times in a row the agent repairs a thing at once.
	freeRepairs = 20
	// truceLimit bounds the repair after the other program gave up: the next of the agent's tries,
	// which it makes every two seconds.
	truceLimit = 3 * time.Second
)

func flapFaults() []fault {
	return []fault{
		{
			name:    "another program deletes a route of ours every 100 ms, for 20 s",
			answer:  "after 20 repairs the route is put back every 2 s, which is reported; other routes never wait",
			prepare: (*lab).join,
			inject:  routeDeleted, repaired: (*lab).joinedRouted, within: truceLimit, slow: true,
		},
		{
			name:    "another program overwrites a route of ours every 100 ms, for 20 s",
			answer:  "it is reported and left alone; ours is back when the other one is gone",
			prepare: (*lab).join,
			inject:  routeOverwritten, repaired: (*lab).joinedRouted, within: truceLimit, slow: true,
		},
		tunnelFlap("another program deletes a peer's FDB entry every 100 ms, for 20 s", plan.KindFDB, func(l *lab, link netlink.Link) error {
			return l.node.Handle().NeighDel(l.entry(link, l.peer.Subnets[0]))
		}),
		tunnelFlap("another program deletes a peer's neighbor on a tunnel every 100 ms, for 20 s", plan.KindNeighbor, func(l *lab, link netlink.Link) error {
			return l.node.Handle().NeighDel(l.neighbor(link, l.peer.Subnets[0]))
		}),
		tunnelFlap("another program deletes a tunnel every 100 ms, for 20 s", plan.KindTunnel, func(l *lab, link netlink.Link) error {
			return l.node.Handle().LinkDel(link)
		}),
	}
}

// tunnelFlap is another program that deletes a tunnel, or something on it.
func tunnelFlap(name string, kind plan.Kind, revert func(*lab, netlink.Link) error) fault {
	return fault{
		name: name, answer: "after 20 repairs it is put back every 2 s, which is reported; what depends on it waits with it",
		prepare: (*lab).encapsulate, within: truceLimit, loses: untilRepaired, slow: true,
		inject: func(l *lab) {
			l.flap(func() {
				link, err := l.node.Handle().LinkByName(topology.Tunnel4)
				if err == nil {
					err = revert(l, link)
				}
				if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
					l.must(err)
				}
			})
			l.must(l.checkProblem(problem.Contested, string(kind)+" "))
			l.must(l.checkRepairs(kind.Label(), freeRepairs))
			l.repairable()
		},
	}
}

func routeDeleted(l *lab) {
	l.flap(func() { l.deleteOurs(l.joined[0].subnets[0]) })
	l.must(l.checkProblem(problem.Contested, l.joined[0].subnets[0].String()))
	if logged := l.countLog("Repaired repeatedly"); logged < 1 || logged > 2 {
		l.t.Errorf("the log has the flap %d times in %s; want once a minute", logged, flapTime)
	}
	if err := l.checkRepairs("route", freeRepairs); err != nil {
		l.t.Error(err)
	}
	l.repairable()
}

// routeOverwritten is `ip route replace` with our own key, which deletes ours without a notice of it.
func routeOverwritten(l *lab) {
	route := &netlink.Route{
		Dst: ipNet(l.joined[0].subnets[0]), Gw: l.peer.V4.AsSlice(), Priority: int(topology.PeerMetric(l.joined[0].subnets[0])),
		Protocol: unix.RTPROT_BIRD,
	}
	l.flap(func() { l.must(l.node.Handle().RouteReplace(route)) })
	l.must(l.checkProblem(problem.RouteConflict, l.joined[0].subnets[0].String()))
	l.must(l.node.Handle().RouteDel(route))
	l.repairable()
}

// flap lets another program revert something for a while, and fails the test if the agent uses too
// much CPU meanwhile.
func (l *lab) flap(revert func()) {
	l.t.Helper()
	used, end := l.cpuTime(), time.Now().Add(flapTime)
	for time.Now().Before(end) {
		revert()
		time.Sleep(flapInterval)
	}
	share := float64(l.cpuTime()-used) / float64(flapTime)
	l.t.Logf("the agent used %.1f %% of a processor", 100*share)
	if share > flapCPU {
		l.t.Errorf("want at most %.0f %%", 100*flapCPU)
	}
}

// checkRepairs returns an error if plainroute_repairs_total of a kind is less than it has to be.
func (l *lab) checkRepairs(kind string, least float64) error {
	page, err := l.node.Metrics(l.t.Context())
	if err != nil {
		return err
	}
	name := fmt.Sprintf("plainroute_repairs_total{kind=%q} ", kind)
	for line := range strings.Lines(page) {
		if text, found := strings.CutPrefix(line, name); found {
			count, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err == nil && count < least {
				err = fmt.Errorf("%s is %v; want %v at least", name, count, least)
			}
			return err
		}
	}
	return fmt.Errorf("the metrics lack %s", name)
}

// cpuTime is what the agent has used so far: utime and stime of /proc/PID/stat, in clock ticks of
// 10 ms (proc_pid_stat(5)).
func (l *lab) cpuTime() time.Duration {
	l.t.Helper()
	const utime, stime, tick = 11, 12, 10 * time.Millisecond // of the fields after the command's name
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.node.AgentPID()))
	l.must(err)
	_, rest, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(rest)
	var ticks int
	for _, field := range []string{fields[utime], fields[stime]} {
		count, err := strconv.Atoi(field)
		l.must(err)
		ticks += count
	}
	return time.Duration(ticks) * tick
}

// countLog counts the lines of the agent's log that hold a text.
func (l *lab) countLog(text string) int {
	l.t.Helper()
	content, err := os.ReadFile(l.node.LogFile())
	l.must(err)
	return strings.Count(string(content), text)
}
