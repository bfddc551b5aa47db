package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/testutil"
)

// healLimit is above the time of the slowest comparable program.
const healLimit = time.Minute

// measureDelete deletes one route at a time and waits for it to be back.
func measureDelete(ctx context.Context, l *lab, r *report) error {
	routes, err := l.ours()
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range l.opts.samples {
		route := routes[1+i*(len(routes)-1)/l.opts.samples]
		if err := testutil.Pause(ctx, restBetween); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, healLimit)
		start := time.Now()
		at, err := l.routes.await(limited, func() error { return l.link.RouteDel(&route) }, func(e routeEvent) bool {
			return e.added && e.subnet.String() == route.Dst.String()
		})
		cancel()
		if err != nil {
			return fmt.Errorf("deleting %s: %w", route.Dst, err)
		}
		took = append(took, at.Sub(start))
	}
	r.add("one deleted route back"+l.during+", median", milliseconds(median(took)), "ms", 0)
	r.add("one deleted route back"+l.during+", worst", milliseconds(worst(took)), "ms", 20)
	return l.complete()
}

// measureNeighbor and measureFDB delete one neighbor or FDB entry of a tunnel at a time and wait for it to be back.
func measureNeighbor(ctx context.Context, l *lab, r *report) error {
	return l.deleteEntries(ctx, r, "neighbor", unix.AF_INET)
}

func measureFDB(ctx context.Context, l *lab, r *report) error {
	return l.deleteEntries(ctx, r, "FDB entry", unix.AF_BRIDGE)
}

func (l *lab) deleteEntries(ctx context.Context, r *report, kind string, family int) error {
	entries, err := l.entries(family)
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range l.opts.samples {
		entry := entries[i*len(entries)/l.opts.samples]
		if err := testutil.Pause(ctx, restBetween); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, healLimit)
		start := time.Now()
		at, err := l.routes.await(limited, func() error { return l.link.NeighDel(&entry) }, func(e routeEvent) bool {
			return e.added && e.entry == entryOf(&entry)
		})
		cancel()
		if err != nil {
			return fmt.Errorf("deleting %s %s: %w", kind, entry.String(), err)
		}
		took = append(took, at.Sub(start))
	}
	r.add("one deleted "+kind+" back, median", milliseconds(median(took)), "ms", 20)
	r.add("one deleted "+kind+" back, worst", milliseconds(worst(took)), "ms", 0)
	return l.complete()
}

// flushes is how often the table is flushed in each way.
const flushes = 3

// measureFlush deletes all routes of the agent's, one request after another, and as `ip route flush` does, many a request.
// Beside that it measures how long `ip -batch` takes to add the same routes while the agent is stopped.
func measureFlush(ctx context.Context, l *lab, r *report) error {
	routes, err := l.ours()
	if err != nil {
		return err
	}
	oneByOne := func() error {
		for _, route := range routes {
			if err := l.link.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("deleting %s: %w", route.Dst, err)
			}
		}
		return nil
	}
	atOnce := func() error { return l.ip(nil, io.Discard, "route", "flush", "proto", strconv.Itoa(netlab.Protocol)) }
	for _, way := range []struct {
		name  string
		flush func() error
		must  float64
	}{{"one by one", oneByOne, 0.6}, {"by ip route flush", atOnce, 0}} {
		if err := l.timeFlush(ctx, r, "whole table flushed "+way.name+l.during, way.must, way.flush); err != nil {
			return err
		}
	}
	if l.during != "" {
		return nil
	}
	return l.measureBatch(ctx, r, atOnce)
}

// timeFlush measures the time until all routes are back since the flush began, and since it ended.
func (l *lab) timeFlush(ctx context.Context, r *report, name string, must float64, flush func() error) error {
	var took, beyond []time.Duration
	for range flushes {
		limited, cancel := context.WithTimeout(ctx, healLimit)
		var start, end time.Time
		at, err := l.routes.allBack(limited, l.peerRoutes(), func() (err error) {
			start = time.Now()
			err = flush()
			end = time.Now()
			return err
		})
		cancel()
		if err != nil {
			return err
		}
		took, beyond = append(took, at.Sub(start)), append(beyond, at.Sub(end))
		if err := l.rested(ctx); err != nil {
			return err
		}
	}
	r.add(name+", all back", seconds(median(took)), "s", must)
	r.add(name+", beyond the flush itself", milliseconds(median(beyond)), "ms", 150)
	return nil
}

// measureBatch measures how long `ip -batch` takes to add the agent's routes while the agent is stopped, which is what the
// kernel takes in this run. The agent then finds its routes in place.
func (l *lab) measureBatch(ctx context.Context, r *report, flush func() error) error {
	var table bytes.Buffer
	if err := l.ip(nil, &table, "route", "show", "proto", strconv.Itoa(netlab.Protocol)); err != nil {
		return err
	}
	var input strings.Builder
	for line := range strings.Lines(table.String()) {
		// A listing that is filtered by protocol leaves the protocol out.
		fmt.Fprintf(&input, "route add %s proto %d\n", strings.TrimSpace(line), netlab.Protocol)
	}
	var took []time.Duration
	for range flushes {
		d, err := l.addBatch(input.String(), flush)
		if err != nil {
			return err
		}
		took = append(took, d)
		if err := l.rested(ctx); err != nil {
			return err
		}
	}
	r.add("the same routes added by ip -batch (a yardstick)", milliseconds(median(took)), "ms", 0)
	return nil
}

// addBatch flushes the table and adds all routes while the agent is stopped.
func (l *lab) addBatch(input string, flush func() error) (took time.Duration, err error) {
	if err := l.agent.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return 0, fmt.Errorf("stopping the agent: %w", err)
	}
	defer func() { err = errors.Join(err, l.agent.cmd.Process.Signal(syscall.SIGCONT)) }()
	if err := flush(); err != nil {
		return 0, err
	}
	start := time.Now()
	err = l.ip(strings.NewReader(input), io.Discard, "-batch", "-")
	return time.Since(start), err
}

// ip runs ip(8) on the machine.
func (l *lab) ip(in io.Reader, out io.Writer, args ...string) error {
	var complaint bytes.Buffer
	cmd := exec.Command("ip", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &complaint
	err := l.machine.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, complaint.String())
	}
	return nil
}

// measureFlap takes the link down and up again, and restores what a network manager would. The
// kernel sends no notification about the IPv4 routes that it removes with the link.
func measureFlap(ctx context.Context, l *lab, r *report) error {
	eth0, err := l.link.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("finding the NIC: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	var up time.Time
	at, err := l.routes.await(limited, func() error {
		if err := l.link.LinkSetDown(eth0); err != nil {
			return fmt.Errorf("taking the NIC down: %w", err)
		}
		if err := testutil.Pause(ctx, restBetween); err != nil {
			return err
		}
		up = time.Now()
		if err := l.link.LinkSetUp(eth0); err != nil {
			return fmt.Errorf("bringing the NIC up: %w", err)
		}
		return l.configure()
	}, peers(l.peerRoutes(), true))
	if err != nil {
		return err
	}
	r.add("link up again after a flap"+l.during+", all routes back", seconds(at.Sub(up)), "s", 0.6)
	return l.rested(ctx)
}

// measureAway repeats the repairs while there is no API server.
func measureAway(ctx context.Context, l *lab, r *report) error {
	if err := l.cluster.API.Kill(); err != nil {
		return err
	}
	l.during = " while the API server is away"
	for _, heal := range []func(context.Context, *lab, *report) error{measureDelete, measureFlush, measureFlap} {
		if err := heal(ctx, l, r); err != nil {
			return err
		}
	}
	l.during = ""
	if err := l.cluster.API.Restart(); err != nil {
		return err
	}
	return l.cluster.API.Await(ctx)
}

// rested checks that all routes are there once the agent is done.
func (l *lab) rested(ctx context.Context) error {
	if err := testutil.Pause(ctx, 2*time.Second); err != nil {
		return err
	}
	return l.complete()
}
