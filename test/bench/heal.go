package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

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
