package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// memoryHost is a Dataplane that behaves: it has a host with our objects, makes Changes in their
// order, and records each in a journal. Tests can make it refuse changes, as kernels and file
// systems do.
type memoryHost struct {
	mu       sync.Mutex
	facts    topology.Host
	state    topology.State
	journal  []string
	tries    []time.Time // when Apply was called
	notify   func()
	concerns []netip.Prefix // of the last pass
	watched  chan struct{}  // closed once notify is there
	held     chan chan struct{}

	refusedRoutes                map[netip.Prefix]error
	refusedFacts, refusedObserve error
	holds                        atomic.Pointer[chan struct{}] // Apply, until it is closed
	stuck                        atomic.Bool                   // Apply is held
	refusedApply                 error                         // of all that needs CAP_NET_ADMIN
	refusedCNI                   error
	refusedTable                 error
	refusedSysctls               map[string]error
	forgetful                    bool // takes settings without an error, and keeps none
	refusedWatch                 chan error
}

const lan = `
links:
- name: lo
  mtu: 65536
  loopback: true
  addrs: [127.0.0.1/8, "::1/128"]
- name: eth0
  mtu: 1500
  addrs: [192.168.1.11/24, "fd00:192:168:1::11/64", "fe80::1/64"]
routes:
- {dst: 192.168.1.0/24, dev: eth0}
- {dst: "fd00:192:168:1::/64", dev: eth0, metric: 256}
- {dst: 0.0.0.0/0, via: 192.168.1.1, dev: eth0}
nameservers: [10.244.53.53]
`

func newMemoryHost() (*memoryHost, error) {
	h := &memoryHost{
		refusedRoutes: map[netip.Prefix]error{}, refusedWatch: make(chan error, 1),
		watched: make(chan struct{}), held: make(chan chan struct{}),
	}
	h.state.Sysctls = map[string]string{
		topology.SysctlForward4: "0", topology.SysctlForward6: "0", topology.SysctlBridgeNF4: "1", topology.SysctlBridgeNF6: "1",
	}
	return h, yaml.UnmarshalStrict([]byte(lan), &h.facts)
}

// Facts leaves out what need not be there.
func (h *memoryHost) Facts(_ context.Context, concerns []netip.Prefix) (topology.Host, error) {
	select {
	case release := <-h.held:
		<-release
	default:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	facts := h.facts
	facts.Routes = slices.DeleteFunc(slices.Clone(facts.Routes), func(r topology.Route) bool {
		return r.Dst.Bits() > 0 && !slices.ContainsFunc(concerns, r.Dst.Overlaps)
	})
	h.concerns = concerns
	return facts, h.refusedFacts
}

// Observe returns our objects.
func (h *memoryHost) Observe(context.Context) (topology.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("observe")
	return h.copyState(), h.refusedObserve
}

func (h *memoryHost) copyState() topology.State {
	state := h.state
	state.Sysctls = maps.Clone(state.Sysctls)
	state.Routes = slices.Clone(state.Routes)
	if m := state.Masquerade; m != nil {
		c := *m
		c.Cluster, c.Nodes = slices.Clone(m.Cluster), slices.Clone(m.Nodes)
		state.Masquerade = &c
	}
	return state
}

// Watch calls notify when a test changes something behind the agent's back.
func (h *memoryHost) Watch(ctx context.Context, _ time.Duration, notify func()) error {
	h.mu.Lock()
	h.notify = notify
	close(h.watched)
	h.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case err := <-h.refusedWatch:
		return err
	}
}

// routeError is a refusal that concerns one route alone.
type routeError struct {
	route topology.Route
	err   error
}

func (e *routeError) Error() string               { return fmt.Sprintf("route %q: %v", e.route, e.err) }
func (e *routeError) Unwrap() error               { return e.err }
func (e *routeError) FailedRoute() topology.Route { return e.route }

// Apply makes the changes in their order.
func (h *memoryHost) Apply(_ context.Context, c plan.Changes) error {
	if hold := h.holds.Load(); hold != nil {
		h.stuck.Store(true)
		<-*hold
		h.stuck.Store(false)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tries = append(h.tries, time.Now())
	var errs []error
	before, rest := c.BeforeRoutes()
	if !c.Except(plan.KindCNI).Empty() && h.refusedApply != nil {
		errs = append(errs, h.refusedApply)
	} else {
		errs = append(errs, h.setUp(before)...)
	}
	errs = append(errs, h.applyRoutes(rest)...)
	if errors.Join(errs...) == nil {
		h.tearDown(rest)
	}
	if h.refusedApply == nil {
		errs = append(errs, h.applyCNI(rest))
	}
	return errors.Join(errs...)
}

func (h *memoryHost) setUp(c plan.Changes) (errs []error) {
	for _, x := range c {
		switch o := x.Object.(type) {
		case plan.Bridge:
			h.note("bridge %s", o)
			h.state.Bridge = o.Device.Name
		case plan.Sysctl:
			if err := h.refusedSysctls[o.Path]; err != nil {
				errs = append(errs, partError{err, x.Key()})
				continue
			}
			h.note("sysctl %s", o)
			if !h.forgetful {
				h.state.Sysctls[o.Path] = o.Value
			}
		case plan.Device:
			h.note("set %s", o)
			others := change(h.state.Devices, nil, named(h.state.Devices, o.Device), topology.Device.Compare)
			h.state.Devices = change(others, []topology.Device{o.Device}, nil, topology.Device.Compare)
		case plan.Address:
			h.note("add address %s", o)
			h.state.Addresses = change(h.state.Addresses, []topology.Address{o.Address}, nil, topology.Address.Compare)
		case plan.Tunnel:
			h.note("tunnel %s", o.Tunnel)
			h.state.Tunnels = change(h.state.Tunnels, []topology.Tunnel{o.Tunnel}, []topology.Tunnel{o.Was}, topology.Tunnel.Compare)
		case plan.Neighbor, plan.FDBEntry:
			h.putPeer(x)
		case plan.Table:
			if h.refusedTable != nil {
				errs = append(errs, partError{h.refusedTable, tableKey})
				continue
			}
			h.note("table")
			m := *o.Masquerade
			h.state.Masquerade = &m
		case plan.Sets:
			h.changeSets("widen", *o.SetChange)
		}
	}
	return errs
}

// putPeer puts a neighbor or FDB entry in its place.
func (h *memoryHost) putPeer(c plan.Change) {
	h.note("%s", c)
	switch o := c.Object.(type) {
	case plan.Neighbor:
		others := slices.DeleteFunc(slices.Clone(h.state.Neighbors), func(n topology.Neighbor) bool { return n.Compare(o.Neighbor) == 0 })
		h.state.Neighbors = change(others, []topology.Neighbor{o.Neighbor}, nil, topology.Neighbor.Compare)
	case plan.FDBEntry:
		others := slices.DeleteFunc(slices.Clone(h.state.FDB), func(e topology.FDBEntry) bool { return e.Compare(o.FDBEntry) == 0 })
		h.state.FDB = change(others, []topology.FDBEntry{o.FDBEntry}, nil, topology.FDBEntry.Compare)
	}
}

// named returns those of devices that have the name of d.
func named(devices []topology.Device, d topology.Device) []topology.Device {
	return slices.DeleteFunc(slices.Clone(devices), func(have topology.Device) bool { return have.Name != d.Name })
}

func (h *memoryHost) changeSets(what string, c plan.SetChange) {
	h.note("%s", what)
	m := h.state.Masquerade
	m.Cluster = change(m.Cluster, c.AddCluster, c.DeleteCluster, topology.ComparePrefix)
	m.Nodes = change(m.Nodes, c.AddNodes, c.DeleteNodes, netip.Addr.Compare)
	m.Endpoints = change(m.Endpoints, c.AddEndpoints, c.DeleteEndpoints, netip.Addr.Compare)
}

func change[T comparable](have, add, remove []T, compare func(T, T) int) []T {
	have = slices.DeleteFunc(slices.Concat(have, add), func(x T) bool { return slices.Contains(remove, x) })
	slices.SortFunc(have, compare)
	return have
}

func (h *memoryHost) applyRoutes(c plan.Changes) []error {
	var errs []error
	for _, x := range c.Only(plan.KindRoute) {
		r := x.Object.(plan.Route).Route
		err := h.refusedRoutes[r.Dst]
		if err == nil {
			err = h.refusedApply
		}
		if err != nil {
			errs = append(errs, &routeError{r, err})
			continue
		}
		h.note("%s %s", x.Op, r)
		if x.Op == plan.Delete {
			h.dropRoute(r)
		} else {
			h.putRoute(r)
		}
	}
	return errs
}

// putRoute puts a route in its place, which its key alone decides, as in the
// kernel.
func (h *memoryHost) putRoute(r topology.Route) {
	i, found := slices.BinarySearchFunc(h.state.Routes, &r, topology.CompareRoutes)
	if found {
		h.state.Routes[i] = &r
		return
	}
	h.state.Routes = slices.Insert(h.state.Routes, i, &r)
}

func (h *memoryHost) dropRoute(r topology.Route) {
	h.state.Routes = slices.DeleteFunc(h.state.Routes, func(have *topology.Route) bool { return *have == r })
}

func (h *memoryHost) tearDown(c plan.Changes) {
	for _, x := range c {
		switch o := x.Object.(type) {
		case plan.Address:
			h.state.Addresses = change(h.state.Addresses, nil, []topology.Address{o.Address}, topology.Address.Compare)
		case plan.Neighbor:
			h.note("%s", x)
			h.state.Neighbors = change(h.state.Neighbors, nil, []topology.Neighbor{o.Neighbor}, topology.Neighbor.Compare)
		case plan.FDBEntry:
			h.note("%s", x)
			h.state.FDB = change(h.state.FDB, nil, []topology.FDBEntry{o.FDBEntry}, topology.FDBEntry.Compare)
		case plan.Sets:
			h.changeSets("narrow", *o.SetChange)
		case plan.Table:
			h.note("delete table")
			h.state.Masquerade = nil
		}
	}
}

func (h *memoryHost) applyCNI(c plan.Changes) error {
	for _, x := range c.Only(plan.KindCNI) {
		switch {
		case h.refusedCNI != nil:
			return h.refusedCNI
		case x.Op == plan.Delete:
			h.note("delete cni")
			h.state.CNI = nil
		default:
			h.note("cni")
			h.state.CNI = x.Object.(plan.Config).CNI
		}
	}
	return nil
}

func (h *memoryHost) note(format string, args ...any) {
	h.journal = append(h.journal, fmt.Sprintf(format, args...))
}

// with calls f with the lock held, to read the host or to change it as another process does.
func (h *memoryHost) with(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// disturb changes the host as another process does, with the kernel's notification.
func (h *memoryHost) disturb(f func()) {
	<-h.watched
	h.with(f)
	h.notify()
}

// inOnePass runs f while a pass stands still, so that all that f does falls
// into the next one.
func (h *memoryHost) inOnePass(f func()) {
	<-h.watched
	release := make(chan struct{})
	defer close(release)
	for {
		h.notify()
		select {
		case h.held <- release:
			f()
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// routes gives our routes in the words of ip-route(8).
func (h *memoryHost) routes() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := make([]string, 0, len(h.state.Routes))
	for _, r := range h.state.Routes {
		lines = append(lines, r.String())
	}
	return lines
}

// reached gives our routes as routes does; one into a tunnel leads to the tunnel's end.
func (h *memoryHost) reached() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := make([]string, 0, len(h.state.Routes))
	for _, route := range h.state.Routes {
		r := *route
		if r.Dev == topology.Tunnel4 || r.Dev == topology.Tunnel6 {
			r.Via, r.Dev, r.Src, r.OnLink = h.state.Endpoint(route), "eth0", netip.Addr{}, false
		}
		lines = append(lines, r.String())
	}
	return lines
}

// fdb gives the entries of tunnels, and endpoints from whom they accept packets.
func (h *memoryHost) fdb() []topology.FDBEntry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.state.FDB)
}

func (h *memoryHost) endpoints() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.Masquerade == nil {
		return nil
	}
	return slices.Clone(h.state.Masquerade.Endpoints)
}

// since returns the journal from an entry on.
func (h *memoryHost) since(n int) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.journal[n:])
}
