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

// memoryHost is a Dataplane that behaves: it holds a host and what of ours is
// on it, makes Changes in their order, and writes down each in a journal. It can
// be told to refuse things, as kernels and file systems do.
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

// Observe tells what of ours is there.
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

// Apply makes the changes in the order of their fields.
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
	if !c.KernelEmpty() && h.refusedApply != nil {
		errs = append(errs, h.refusedApply)
	} else {
		errs = append(errs, h.setUp(c)...)
	}
	errs = append(errs, h.applyRoutes(c)...)
	if errors.Join(errs...) == nil {
		h.tearDown(c)
	}
	if h.refusedApply == nil {
		errs = append(errs, h.applyCNI(c))
	}
	return errors.Join(errs...)
}

func (h *memoryHost) setUp(c plan.Changes) (errs []error) {
	if c.AddBridge != nil {
		h.note("bridge %s", c.AddBridge.Name)
		h.state.Bridge = c.AddBridge.Name
	}
	for _, s := range c.Sysctls {
		if err := h.refusedSysctls[s.Path]; err != nil {
			errs = append(errs, partError{err, plan.Key{Kind: plan.KindSysctl, Name: s.Path}})
			continue
		}
		h.note("sysctl %s=%s", s.Path, s.Value)
		if !h.forgetful {
			h.state.Sysctls[s.Path] = s.Value
		}
	}
	for _, d := range c.SetDevices {
		h.note("set %s", d)
		others := change(h.state.Devices, nil, named(h.state.Devices, d), topology.Device.Compare)
		h.state.Devices = change(others, []topology.Device{d}, nil, topology.Device.Compare)
	}
	for _, a := range c.AddAddresses {
		h.note("add address %s", a)
	}
	h.state.Addresses = change(h.state.Addresses, c.AddAddresses, nil, topology.Address.Compare)
	if c.Table != nil && h.refusedTable != nil {
		return append(errs, partError{h.refusedTable, tableKey})
	}
	if c.Table != nil {
		h.note("table")
		m := *c.Table
		h.state.Masquerade = &m
	}
	h.changeSets("widen", c.Widen)
	return errs
}

// named returns those of devices that have the name of d.
func named(devices []topology.Device, d topology.Device) []topology.Device {
	return slices.DeleteFunc(slices.Clone(devices), func(have topology.Device) bool { return have.Name != d.Name })
}

func (h *memoryHost) changeSets(what string, c plan.SetChange) {
	if c.Empty() {
		return
	}
	h.note("%s", what)
	m := h.state.Masquerade
	m.Cluster = change(m.Cluster, c.AddCluster, c.DeleteCluster, topology.ComparePrefix)
	m.Nodes = change(m.Nodes, c.AddNodes, c.DeleteNodes, netip.Addr.Compare)
}

func change[T comparable](have, add, remove []T, compare func(T, T) int) []T {
	have = slices.DeleteFunc(slices.Concat(have, add), func(x T) bool { return slices.Contains(remove, x) })
	slices.SortFunc(have, compare)
	return have
}

func (h *memoryHost) applyRoutes(c plan.Changes) []error {
	var errs []error
	do := func(verb string, routes []topology.Route, f func(topology.Route)) {
		for _, r := range routes {
			err := h.refusedRoutes[r.Dst]
			if err == nil {
				err = h.refusedApply
			}
			if err != nil {
				errs = append(errs, &routeError{r, err})
				continue
			}
			h.note("%s %s", verb, r)
			f(r)
		}
	}
	do("add", c.Add, h.putRoute)
	do("replace", c.Replace, h.putRoute)
	do("delete", c.Delete, h.dropRoute)
	return errs
}

// putRoute puts a route in its place, which its key alone decides, as in the
// kernel.
func (h *memoryHost) putRoute(r topology.Route) {
	i, found := slices.BinarySearchFunc(h.state.Routes, r, topology.Route.Compare)
	if found {
		h.state.Routes[i] = r
		return
	}
	h.state.Routes = slices.Insert(h.state.Routes, i, r)
}

func (h *memoryHost) dropRoute(r topology.Route) {
	h.state.Routes = slices.DeleteFunc(h.state.Routes, func(have topology.Route) bool { return have == r })
}

func (h *memoryHost) tearDown(c plan.Changes) {
	h.state.Addresses = change(h.state.Addresses, nil, c.DeleteAddresses, topology.Address.Compare)
	h.changeSets("narrow", c.Narrow)
	if c.DeleteTable {
		h.note("delete table")
		h.state.Masquerade = nil
	}
}

func (h *memoryHost) applyCNI(c plan.Changes) error {
	switch {
	case h.refusedCNI != nil && (c.CNI != nil || c.DeleteCNI):
		return h.refusedCNI
	case c.CNI != nil:
		h.note("cni")
		h.state.CNI = c.CNI
	case c.DeleteCNI:
		h.note("delete cni")
		h.state.CNI = nil
	}
	return nil
}

func (h *memoryHost) note(format string, args ...any) {
	h.journal = append(h.journal, fmt.Sprintf(format, args...))
}

// with gives f the host to look at, or to change as somebody else would.
func (h *memoryHost) with(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// disturb changes the host behind the agent's back, as the kernel then tells.
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

// since returns the journal from an entry on.
func (h *memoryHost) since(n int) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.journal[n:])
}
