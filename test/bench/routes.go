package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
)

// routeEvent is the kernel's word that a route of the agent's came, changed or went.
type routeEvent struct {
	at     time.Time
	added  bool
	subnet netip.Prefix
	via    netip.Addr // none: the route to our own subnet
}

// routeWatch listens to the routes of a namespace.
type routeWatch struct {
	close func()

	mu      sync.Mutex
	count   int // notifications of the agent's routes
	want    func(routeEvent) bool
	matched chan time.Time
}

// receiveBuffer holds the notifications of a whole table.
const receiveBuffer = 64 << 20

// watchRoutes subscribes to the routes of the thread's namespace.
func watchRoutes() (*routeWatch, error) {
	updates, done := make(chan netlink.RouteUpdate, 1024), make(chan struct{})
	err := netlink.RouteSubscribeWithOptions(updates, done, netlink.RouteSubscribeOptions{
		ReceiveBufferSize: receiveBuffer, ReceiveBufferForceSize: true,
	})
	if err != nil {
		return nil, fmt.Errorf("subscribing to routes: %w", err)
	}
	w := &routeWatch{close: sync.OnceFunc(func() { close(done) })}
	go func() {
		for update := range updates {
			w.learn(update)
		}
	}()
	return w, nil
}

func (w *routeWatch) learn(update netlink.RouteUpdate) {
	if update.Protocol != netlab.Protocol || update.Dst == nil {
		return
	}
	event := routeEvent{at: time.Now(), added: update.Type == unix.RTM_NEWROUTE}
	event.via, _ = netip.AddrFromSlice(update.Gw)
	addr, _ := netip.AddrFromSlice(update.Dst.IP)
	bits, _ := update.Dst.Mask.Size()
	event.via, event.subnet = event.via.Unmap(), netip.PrefixFrom(addr.Unmap(), bits)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	if w.want != nil && w.want(event) {
		w.want = nil
		w.matched <- event.at
	}
}

// await calls cause and returns when the kernel announced the first event, from just before the
// call on, that want accepts. It must not be called twice at the same time.
func (w *routeWatch) await(ctx context.Context, cause func() error, want func(routeEvent) bool) (time.Time, error) {
	matched := make(chan time.Time, 1)
	w.expect(want, matched)
	defer w.expect(nil, nil)
	if err := cause(); err != nil {
		return time.Time{}, err
	}
	select {
	case at := <-matched:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("waiting for routes: %w", ctx.Err())
	}
}

func (w *routeWatch) expect(want func(routeEvent) bool, matched chan time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want, w.matched = want, matched
}

// notifications is how many there were of the agent's routes.
func (w *routeWatch) notifications() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// peers accepts the event that completes a number of peers' routes, each of which came, or went.
func peers(number int, added bool) func(routeEvent) bool {
	seen := make(map[netip.Prefix]bool, number)
	return func(e routeEvent) bool {
		if e.added == added && e.via.IsValid() {
			seen[e.subnet] = true
		}
		return len(seen) == number
	}
}

// peerRoute accepts the event that a route to one subnet came.
func peerRoute(subnet netip.Prefix) func(routeEvent) bool {
	return func(e routeEvent) bool { return e.added && e.subnet == subnet }
}

// ours are the agent's routes in the kernel, that to our own subnet too.
func (l *lab) ours() ([]netlink.Route, error) {
	filter := &netlink.Route{Protocol: netlab.Protocol, Table: unix.RT_TABLE_MAIN}
	routes, err := l.link.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	return routes, nil
}

// complete checks that all routes are there, by a dump of the kernel rather than by its notifications.
func (l *lab) complete() error {
	routes, err := l.ours()
	if err != nil {
		return err
	}
	if want := l.peerRoutes() + len(l.subnets(ownIndex)); len(routes) != want {
		return fmt.Errorf("%d routes are there, not %d", len(routes), want)
	}
	return nil
}
