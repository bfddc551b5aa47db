package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteEvent is the kernel's word that a route came or went.
type RouteEvent struct {
	// At is when we read it, on the monotonic clock: never before it happened.
	At       time.Time
	Added    bool
	To       netip.Prefix
	Protocol int
}

// RouteWatch listens to a namespace's routes from the moment when it was made.
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

// translate ends when the subscription does; what nobody reads any more is dropped.
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

// awaitAll waits until the kernel has announced that the agent's routes to all of subnets came, or went.
func (w *RouteWatch) awaitAll(ctx context.Context, added bool, subnets []netip.Prefix) (RouteEvent, error) {
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

// Delay is how long a node's kernel took to show what was caused elsewhere.
type Delay struct {
	Node string
	Took time.Duration
}

// AwaitRoutes calls cause and measures, on each node, the time from the call to the kernel's word that the agent's
// routes to all of subnets came (added) or went.
func AwaitRoutes(
	ctx context.Context, nodes []*Node, added bool, subnets []netip.Prefix, cause func() error,
) ([]Delay, error) {
	var watches []*RouteWatch
	defer func() {
		for _, watch := range watches {
			watch.Close()
		}
	}()
	for _, node := range nodes {
		watch, err := node.WatchRoutes()
		if err != nil {
			return nil, err
		}
		watches = append(watches, watch)
	}
	start := time.Now()
	if err := cause(); err != nil {
		return nil, err
	}
	var delays []Delay
	for i, watch := range watches {
		event, err := watch.awaitAll(ctx, added, subnets)
		if err != nil {
			return nil, err
		}
		delays = append(delays, Delay{Node: nodes[i].Name, Took: event.At.Sub(start)})
	}
	return delays, nil
}

// Heal deletes the agent's route to a subnet by hand and measures how long it stays away.
func (n *Node) Heal(ctx context.Context, to netip.Prefix) (time.Duration, error) {
	delays, err := AwaitRoutes(ctx, []*Node{n}, true, []netip.Prefix{to}, func() error { return n.DeleteRoute(to) })
	if err != nil {
		return 0, err
	}
	return delays[0].Took, nil
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
		for {
			routes, err := n.ownRoutes(subnet)
			if err != nil {
				return err
			}
			if len(routes) > 0 == there {
				break
			}
			if err := pause(ctx, readyInterval); err != nil {
				return fmt.Errorf("waiting for the route to %s on %s (there: %t): %w", subnet, n.Name, !there, err)
			}
		}
	}
	return nil
}
