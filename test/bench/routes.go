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
	"github.com/plainroute/plainroute/test/testutil"
)

// routeEvent is the kernel's word that a route of the agent's, or an entry of a tunnel, came, changed or went.
type routeEvent struct {
	object
	at    time.Time
	added bool
	via   netip.Addr // none: the route to our own subnet, or an entry
}

// object is one thing that the agent adds.
type object struct {
	subnet netip.Prefix // of a route
	entry  string       // a neighbor's IP address or an FDB entry's MAC address; empty: a route
}

// routeWatch listens to the routes of a namespace, and to the neighbors and FDB entries of its tunnels.
type routeWatch struct {
	close func()

	mu      sync.Mutex
	count   int // notifications of the agent's routes and entries
	want    func(routeEvent) bool
	matched chan time.Time
}

// receiveBuffer holds the notifications of a whole table.
const receiveBuffer = 64 << 20

// watchRoutes subscribes to the routes, neighbors and FDB entries of the thread's namespace.
func watchRoutes() (*routeWatch, error) {
	updates, done := make(chan netlink.RouteUpdate, 1024), make(chan struct{})
	err := netlink.RouteSubscribeWithOptions(updates, done, netlink.RouteSubscribeOptions{
		ReceiveBufferSize: receiveBuffer, ReceiveBufferForceSize: true,
	})
	if err != nil {
		return nil, fmt.Errorf("subscribing to routes: %w", err)
	}
	entries := make(chan netlink.NeighUpdate, 1024)
	err = netlink.NeighSubscribeWithOptions(entries, done, netlink.NeighSubscribeOptions{
		ReceiveBufferSize: receiveBuffer, ReceiveBufferForceSize: true,
	})
	if err != nil {
		close(done)
		return nil, fmt.Errorf("subscribing to neighbors: %w", err)
	}
	w := &routeWatch{close: sync.OnceFunc(func() { close(done) })}
	go func() {
		for update := range updates {
			w.learn(update)
		}
	}()
	go func() {
		for update := range entries {
			w.learnEntry(update)
		}
	}()
	return w, nil
}

// entryOf returns the name of an entry of a tunnel, empty for others: neighbors of no pod's range, which are link-local in
// IPv6, and MAC addresses without an IP address, which are those of bridges' ports and of multicast groups.
func entryOf(n *netlink.Neigh) string {
	addr, ok := netip.AddrFromSlice(n.IP)
	addr = addr.Unmap()
	switch {
	case n.Family == unix.AF_BRIDGE && ok:
		return n.HardwareAddr.String()
	case n.Family != unix.AF_BRIDGE && (podRange4.Contains(addr) || addr.Is6() && addr.IsLinkLocalUnicast()):
		return addr.String()
	}
	return ""
}

// learnEntry leaves out the state in which the kernel shows a neighbor before its deletion.
func (w *routeWatch) learnEntry(update netlink.NeighUpdate) {
	event := routeEvent{at: time.Now(), added: update.Type == unix.RTM_NEWNEIGH, object: object{entry: entryOf(&update.Neigh)}}
	if event.entry != "" && (!event.added || update.State&unix.NUD_PERMANENT != 0) {
		w.note(event)
	}
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
	w.note(event)
}

func (w *routeWatch) note(event routeEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	if w.want != nil && w.want(event) {
		w.want = nil
		w.matched <- event.at
	}
}

// quiet is the time without notifications after which no more are expected.
const quiet = 500 * time.Millisecond

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

// allBack calls cause, which deletes a number of peers' routes, and returns when the last of them was added again. The agent
// may add one while others are still being deleted.
func (w *routeWatch) allBack(ctx context.Context, number int, cause func() error) (time.Time, error) {
	var last time.Time
	deleted, missing := map[object]bool{}, map[object]bool{}
	w.expect(func(e routeEvent) bool {
		switch {
		case !e.via.IsValid():
		case e.added:
			delete(missing, e.object)
			last = e.at
		default:
			deleted[e.object], missing[e.object] = true, true
		}
		return false
	}, nil)
	defer w.expect(nil, nil)
	if err := cause(); err != nil {
		return time.Time{}, err
	}
	for before := -1; ; {
		if err := testutil.Pause(ctx, quiet); err != nil {
			return time.Time{}, fmt.Errorf("waiting for routes: %w", err)
		}
		w.mu.Lock()
		complete, now, at := len(missing) == 0 && len(deleted) == number, w.count, last
		w.mu.Unlock()
		if complete && now == before {
			return at, nil
		}
		before = now
	}
}

// notifications is how many there were of the agent's routes and entries.
func (w *routeWatch) notifications() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// peers accepts the event that completes a number of peers' routes and entries, each of which came, or went.
func peers(number int, added bool) func(routeEvent) bool {
	seen := make(map[object]bool, number)
	return func(e routeEvent) bool {
		if e.added == added && (e.via.IsValid() || e.entry != "") {
			seen[e.object] = true
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

// entries are the permanent neighbors (AF_INET, AF_INET6) or FDB entries (AF_BRIDGE) of the agent's tunnels.
func (l *lab) entries(families ...int) ([]netlink.Neigh, error) {
	var all []netlink.Neigh
	for _, family := range families {
		found, err := l.link.NeighList(0, family)
		if err != nil {
			return nil, fmt.Errorf("listing neighbors: %w", err)
		}
		for _, n := range found {
			if entryOf(&n) != "" && n.State&unix.NUD_PERMANENT != 0 {
				all = append(all, n)
			}
		}
	}
	return all, nil
}

// complete checks that all routes and entries are there, by dumps of the kernel rather than by its notifications.
func (l *lab) complete() error {
	routes, err := l.ours()
	if err != nil {
		return err
	}
	if want := l.peerRoutes() + len(l.subnets(ownIndex)); len(routes) != want {
		return fmt.Errorf("%d routes are there, not %d", len(routes), want)
	}
	entries, err := l.entries(unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE)
	if err != nil {
		return err
	}
	if want := l.peerRoutes() * (l.perRoute() - 1); len(entries) != want {
		return fmt.Errorf("%d neighbors and FDB entries are there, not %d", len(entries), want)
	}
	return nil
}
