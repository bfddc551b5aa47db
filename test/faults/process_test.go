package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/plainroute/plainroute/pkg/nslock"
	"github.com/plainroute/plainroute/test/netlab"
)

// startLimit bounds the work of an agent that starts: reach the API server, list the Nodes, look at the kernel.
const startLimit = 5 * time.Second

// wakeLimit bounds the work of an agent that was stopped for long: its memory may have been put aside, and timers are
// due all at once.
const wakeLimit = time.Second

func processFaults() []fault {
	return []fault{
		{
			name: "SIGTERM, and started again", answer: "nothing changes while it is away or when it comes back",
			inject: func(l *lab) { l.restart(syscall.SIGTERM, func() {}) },
			times:  3, within: startLimit,
		},
		{
			name: "killed, and a route deleted before it starts again", answer: "the route is put back by the first pass",
			inject: func(l *lab) {
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
			inject:  killAtRandom, repaired: (*lab).joinedRouted, within: startLimit, slow: true,
		},
		{
			name: "stopped for 30 s, a route deleted meanwhile", answer: "the route is put back when it goes on",
			inject: stopForLong, within: wakeLimit, loses: untilRepaired, slow: true,
		},
		{
			name:   "notifications lost: the socket overflows while the agent is stopped, a route deleted meanwhile",
			answer: "everything is read again, and the route put back",
			inject: overflow, within: startLimit, loses: untilRepaired,
		},
		{
			name:   "a second agent is started with folders, a port and a cluster of its own",
			answer: "it is refused at once, and its error names the running agent",
			inject: secondAgent, times: 2, within: startLimit,
		},
		{
			name:   "restarted while an unprivileged process holds the socket that keeps a second agent away",
			answer: "it starts without, and takes the socket when it is free: a second agent is refused again",
			inject: squat, within: startLimit,
		},
		{
			name:   "a second agent is started while the first is stopped",
			answer: "it is refused at once, and its error has the first one's process id",
			inject: func(l *lab) {
				l.must(l.node.PauseAgent())
				defer func() { l.must(l.node.SignalAgent(syscall.SIGCONT)) }()
				l.refusedAgent(fmt.Sprintf("it does not answer, pid %d", l.node.AgentPID()))
			},
			within: startLimit,
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

func secondAgent(l *lab) {
	l.refusedAgent(fmt.Sprintf("node %s, run folder %s, pid %d", l.node.Name, l.node.RunDir, l.node.AgentPID()))
}

// squat holds the agent's socket as user 65534 while the agent starts.
func squat(l *lab) {
	var squatter net.Listener
	l.restart(syscall.SIGTERM, func() {
		// The thread of this goes away with its user.
		l.must(l.node.DoWithout(unix.CAP_NET_ADMIN, func() (err error) {
			const nobody = 65534
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
				return errno
			}
			squatter, err = net.Listen("unix", "@plainroute")
			return err
		}))
	})
	log, err := os.ReadFile(l.node.LogFile())
	l.must(err)
	if want := "a process of user 65534"; !strings.Contains(string(log), want) {
		l.t.Errorf("the agent's log lacks %q", want)
	}
	l.must(squatter.Close())
	l.await(func() error {
		return l.node.Do(func() error {
			if err := nslock.Find(); err == nil {
				return errors.New("the agent has not taken its socket")
			}
			return nil
		})
	})
	secondAgent(l)
	l.repairable()
}

// refusedAgent starts a router's agent for another cluster beside the node's own, and fails the test
// unless it ends with an error that names the holder, and leaves nothing behind.
func (l *lab) refusedAgent(holder string) {
	l.t.Helper()
	kubeconfig, err := l.pool.Kubeconfig(l.node.Name+"-second", func(*clientcmdapi.Config) {})
	l.must(err)
	runDir := filepath.Join(l.t.TempDir(), "run")
	ctx, cancel := context.WithTimeout(l.t.Context(), limit)
	defer cancel()
	done, err := l.node.Plainroute(ctx, "agent", "--mode", "router", "--kubeconfig", kubeconfig,
		"--cluster-cidr", "10.99.0.0/16", "--run-dir", runDir, "--listen", "127.0.0.1:19472")
	l.must(err)
	if done.Code != 1 || !strings.Contains(done.Stderr, "another agent runs in this network namespace: "+holder) {
		l.t.Errorf("the second agent ended with %d and printed %q; want it to name %q", done.Code, done.Stderr, holder)
	}
	if _, err := os.Stat(runDir); !errors.Is(err, os.ErrNotExist) {
		l.t.Errorf("the second agent left its run folder: %v", err)
	}
}

// killAtRandom keeps passes going by removing objects that no traffic needs at that moment: routes
// to a Node that is there in name only, and the CNI config. Every second agent is killed while it
// starts.
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

// overflow changes foreign routes until the agent's notification socket has no room left, and then
// ours.
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

// changeRoutes adds and deletes foreign routes.
func (l *lab) changeRoutes(count int) {
	l.t.Helper()
	for number := range count {
		to := netip.AddrFrom4([4]byte{172, 29, byte(number >> 8), byte(number)})
		route := &netlink.Route{
			Dst: ipNet(netip.PrefixFrom(to, 32)), Gw: netlab.Router4.AsSlice(), Protocol: unix.RTPROT_BIRD,
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
