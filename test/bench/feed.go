package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// A routing daemon's table, of which some routes are deleted and added again each second.
const (
	feedRoutes   = 100_000
	feedFlaps    = 1_000 // a second
	feedTick     = 10 * time.Millisecond
	feedFor      = 10 * time.Second
	feedProtocol = 186 // bgp (rtnetlink(7))
)

// measureFeed measures the agent among foreign routes to none of the cluster's ranges that flap all the time: its CPU time,
// its memory, and its repairs.
func measureFeed(ctx context.Context, l *lab, r *report) (err error) {
	if err := l.ip(strings.NewReader(feed("add")), io.Discard, "-batch", "-"); err != nil {
		return err
	}
	flapping, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.flapFeed(flapping) }()
	used, err := l.cpuDuring(ctx, feedFor)
	if err == nil {
		r.add("CPU while 1,000 of 100,000 foreign routes flap each second", 100*used.Seconds()/feedFor.Seconds(), "%", 2)
		l.during = " meanwhile"
		err = measureDelete(ctx, l, r)
		l.during = ""
	}
	stop()
	if flapErr := <-ended; err == nil {
		err = flapErr
	}
	if err != nil {
		return err
	}
	mib, err := l.agent.peakMemory()
	if err != nil {
		return err
	}
	r.add("peak resident memory after that", mib, "MiB", 60)
	return l.ip(strings.NewReader(feed("del")), io.Discard, "-batch", "-")
}

// cpuDuring returns the agent's CPU time in the next while.
func (l *lab) cpuDuring(ctx context.Context, while time.Duration) (time.Duration, error) {
	before, err := l.agent.cpu()
	if err != nil {
		return 0, err
	}
	if err := testutil.Pause(ctx, while); err != nil {
		return 0, err
	}
	after, err := l.agent.cpu()
	return after - before, err
}

// feedSubnet returns a subnet of no Node and no pod.
func feedSubnet(i int) net.IPNet {
	return net.IPNet{IP: net.IPv4(byte(20+i>>16), byte(i>>8), byte(i), 0).To4(), Mask: net.CIDRMask(24, 32)}
}

// feed returns commands of ip(8).
func feed(command string) string {
	var b strings.Builder
	for i := range feedRoutes {
		subnet := feedSubnet(i)
		fmt.Fprintf(&b, "route %s %s via %s proto %d\n", command, &subnet, address4(routerIndex), feedProtocol)
	}
	return b.String()
}

// flapFeed deletes and adds routes until the context ends.
func (l *lab) flapFeed(ctx context.Context) error {
	var link *netlink.Handle
	err := l.machine.Do(func() (err error) {
		link, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	defer link.Close()
	ticks := time.NewTicker(feedTick)
	defer ticks.Stop()
	for next := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		for range int(feedFlaps * feedTick / time.Second) {
			subnet := feedSubnet(next % feedRoutes)
			route := netlink.Route{Dst: &subnet, Gw: address4(routerIndex).AsSlice(), Protocol: feedProtocol}
			if err := link.RouteDel(&route); err != nil {
				return fmt.Errorf("deleting %s: %w", &subnet, err)
			}
			if err := link.RouteAdd(&route); err != nil {
				return fmt.Errorf("adding %s: %w", &subnet, err)
			}
			next += 7 // not in the order in which they were added
		}
	}
}
