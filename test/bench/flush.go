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
)

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
	atOnce := func() error { return l.ipRoute(io.Discard, "flush") }
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
	if err := l.ipRoute(&table, "show"); err != nil {
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

// ipRoute runs a command of ip-route(8) for the agent's routes of each family.
func (l *lab) ipRoute(out io.Writer, command string) error {
	for _, subnet := range l.subnets(ownIndex) {
		family := "-4"
		if subnet.Addr().Is6() {
			family = "-6"
		}
		if err := l.ip(nil, out, family, "route", command, "proto", strconv.Itoa(netlab.Protocol)); err != nil {
			return err
		}
	}
	return nil
}

// ip runs ip(8) on the machine.
func (l *lab) ip(in io.Reader, out io.Writer, args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.Command("ip", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
	err := l.machine.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return nil
}
