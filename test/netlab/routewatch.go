package netlab

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// RouteEvent is a notification of the kernel that a route came or went.
type RouteEvent struct {
	// At is when we read it, on the monotonic clock: never before it happened.
	At       time.Time
	Added    bool
	To       netip.Prefix
	Protocol int
}

// pollInterval is shorter than anything that a test measures.
const pollInterval = 20 * time.Millisecond

// RouteWatch receives the notifications of a namespace's routes, from its creation on.
type RouteWatch struct {
	name   string
	events chan RouteEvent
	cancel func()
}

// WatchRoutes subscribes to a namespace's route notifications. Close it.
func (n *Namespace) WatchRoutes() (*RouteWatch, error) {
	updates, done := make(chan netlink.RouteUpdate, 1024), make(chan struct{})
	if err := netlink.RouteSubscribeAt(n.fd, updates, done); err != nil {
		return nil, fmt.Errorf("subscribing to the routes of %s: %w", n.Name, err)
	}
	watch := &RouteWatch{
		name:   n.Name,
		events: make(chan RouteEvent, 4096),
		cancel: sync.OnceFunc(func() { close(done) }),
	}
	go watch.translate(updates)
	return watch, nil
}

// translate ends when the subscription does; events without a reader are dropped.
func (w *RouteWatch) translate(updates <-chan netlink.RouteUpdate) {
	defer close(w.events)
	for update := range updates {
		if update.Dst == nil {
			continue
		}
		to, err := netip.ParsePrefix(update.Dst.String())
		if err != nil {
			continue
		}
		event := RouteEvent{
			At: time.Now(), Added: update.Type == unix.RTM_NEWROUTE, To: to, Protocol: int(update.Protocol),
		}
		select {
		case w.events <- event:
		default:
		}
	}
}

// Close ends the subscription.
func (w *RouteWatch) Close() { w.cancel() }

// Await returns the first event, from now on, that want accepts.
func (w *RouteWatch) Await(ctx context.Context, want func(RouteEvent) bool) (RouteEvent, error) {
	for {
		select {
		case <-ctx.Done():
			return RouteEvent{}, fmt.Errorf("waiting for a route of %s: %w", w.name, ctx.Err())
		case event, open := <-w.events:
			if !open {
				return RouteEvent{}, fmt.Errorf("waiting for a route of %s: the subscription ended", w.name)
			}
			if want(event) {
				return event, nil
			}
		}
	}
}

// Drain returns the events that came since the last look, without waiting.
func (w *RouteWatch) Drain() []RouteEvent {
	var events []RouteEvent
	for {
		select {
		case event, open := <-w.events:
			if !open {
				return events
			}
			events = append(events, event)
		default:
			return events
		}
	}
}

// AwaitAll waits until the kernel has announced that the agent's routes to all of subnets came, or went.
func (w *RouteWatch) AwaitAll(ctx context.Context, added bool, subnets []netip.Prefix) (RouteEvent, error) {
	missing := map[netip.Prefix]bool{}
	for _, subnet := range subnets {
		missing[subnet] = true
	}
	return w.Await(ctx, func(event RouteEvent) bool {
		if event.Added == added && event.Protocol == Protocol {
			delete(missing, event.To)
		}
		return len(missing) == 0
	})
}

// AwaitRoute waits until the agent's routes to all of subnets are in the kernel.
func (n *Namespace) AwaitRoute(ctx context.Context, subnets ...netip.Prefix) error {
	return n.awaitState(ctx, true, subnets)
}

// AwaitNoRoute waits until none of the agent's routes to subnets is in the kernel.
func (n *Namespace) AwaitNoRoute(ctx context.Context, subnets ...netip.Prefix) error {
	return n.awaitState(ctx, false, subnets)
}

func (n *Namespace) awaitState(ctx context.Context, there bool, subnets []netip.Prefix) error {
	for _, subnet := range subnets {
		err := testutil.Poll(ctx, pollInterval, func() error {
			routes, err := n.ownRoutes(subnet)
			if err == nil && len(routes) > 0 != there {
				err = fmt.Errorf("%s has %d routes of ours to %s", n.Name, len(routes), subnet)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("waiting for the routes of %s (there: %t): %w", n.Name, there, err)
		}
	}
	return nil
}
