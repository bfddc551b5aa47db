// Package dataplane reads the kernel into a Host (Facts) and a State (Observe), applies changes
// (Apply) and watches for changes by other programs (Watch). No other package writes to the kernel.
package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/plugins"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Config has what a Kernel needs besides the network namespace.
type Config struct {
	RouteTable       int       // the number of the table with our routes; 0: main
	Bridge           string    // the name of the pods' bridge
	ProcSys          string    // the root of settings: /proc/sys, or in a container another mount of it
	ResolvConf       string    // the file of resolv.conf(5)
	ResolvConfNeeded bool      // a missing ResolvConf is an error; otherwise it means that there are no nameservers
	CNI              cni.Store // the folders of our CNI config
}

// Kernel reads and changes the kernel in the network namespace of the thread that called New, and
// the CNI folder.
//
// It keeps what it has read and written until Watch receives notifications of other programs'
// changes, so that a pass costs as much as has changed. If Watch does not run, call Forget before
// each Observe.
type Kernel struct {
	cfg     Config
	plugins plugins.Folder
	handle  *rtnl.Handle    // lists links, writes addresses
	events  []*netlink.Conn // notifications, subscribed to before the first read

	families    []uint8        // of routes to read
	namespace   *namespace     // in which the sockets are made
	rtnetlink   *socket        // reads and writes routes
	nfnetlink   *socket        // asks for nftables' generation
	nft         *nftables.Conn // for our table; nil while the kernel has no nf_tables
	nftConn     *netlink.Conn  // its socket, whose port identifies our own notifications
	nftEvents   *netlink.Conn  // notifications of nftables; nil while the kernel has none
	newEvents   chan *netlink.Conn
	left        chan struct{} // a port has left the bridge, or may have
	linkChanges atomic.Uint64 // counts links that were added or deleted

	mu         sync.Mutex
	buffer     []byte  // of catchUp
	notified   message // of learnRoute
	links      *linkFacts
	routes     *routeFacts
	strays     []topology.TableRoute // routes of ours in other tables
	searched   bool                  // for these
	ruled      []netip.Prefix        // the destinations of which policy rules lead to our table
	peers      peerFacts
	watched    bool            // notifications of neighbors are subscribed to
	bulk       int             // how many routes, neighbors or FDB entries were added since they were read
	concerns   []netip.Prefix  // the ranges for which foreign routes are kept; nil: all
	seen       map[egress]bool // those that made routes stale since the last audit
	objects    bool            // routes refer to nexthop objects
	advertised map[string]bool // links that have received router advertisements, by name
	sysctls    map[string]string
	masquerade *topology.Masquerade
	fresh      freshness
	covered    []netip.Prefix // destinations that see pods' own addresses
	servers    []netip.Addr   // of resolv.conf when it could last be read
	tried      trial          // the last successful one
	blind      error          // why folders can't be watched
	unread     error          // why our table can't be read
}

// freshness is set for what is kept and up to date. The rest stays in use until the next pass reads
// it, because notifications may arrive during Apply.
type freshness struct {
	routes     bool // and links
	ours       bool // our own routes
	peers      bool // what is on our tunnels
	sysctls    bool
	masquerade bool
}

// receiveBuffer holds the notifications of about 5,000 changes at once; the default size holds 256.
const receiveBuffer = 16 << 20

// New opens the sockets. It needs no capability; Apply needs CAP_NET_ADMIN.
func New(cfg Config) (*Kernel, error) {
	k := &Kernel{
		cfg: cfg, plugins: plugins.Folder{Path: cfg.CNI.BinDir}, families: []uint8{unix.AF_INET, unix.AF_INET6},
		advertised: map[string]bool{}, seen: map[egress]bool{}, newEvents: make(chan *netlink.Conn, 1), left: make(chan struct{}, 1),
	}
	if err := k.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening netlink: %w", err), k.Close())
	}
	return k, nil
}

func (k *Kernel) open() (err error) {
	if k.namespace, err = openNamespace(); err != nil {
		return err
	}
	events, err := listenTo(unix.NETLINK_ROUTE, routeGroups(k.cfg.RouteTable != 0)...) // before anything is read, so that no change is missed
	if err != nil {
		return err
	}
	k.events = append(k.events, events)
	k.nfnetlink = newSocket(k.namespace, unix.NETLINK_NETFILTER)
	// A kernel without nf_tables still routes. The next read or write of the table reports the
	// error again.
	_ = k.openNFT()
	if k.handle, err = rtnl.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	k.rtnetlink = newSocket(k.namespace, unix.NETLINK_ROUTE)
	return k.rtnetlink.open()
}

// Close closes the sockets. Objects in the kernel stay.
func (k *Kernel) Close() error {
	var errs []error
	for _, c := range k.events {
		errs = append(errs, c.Close())
	}
	if k.handle != nil {
		k.handle.Close()
	}
	errs = append(errs, k.rtnetlink.close(), k.nfnetlink.close(), k.namespace.close())
	if k.nft != nil {
		errs = append(errs, k.nft.CloseLasting())
	}
	if k.nftEvents != nil {
		errs = append(errs, k.nftEvents.Close())
	}
	return errors.Join(errs...)
}

// Forget drops all that is kept, so that the next pass reads the kernel again.
func (k *Kernel) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget()
}

func (k *Kernel) forget() { k.fresh, k.seen = freshness{}, map[egress]bool{} }

// Facts returns what this host has apart from our objects. It leaves out foreign routes that
// overlap none of the given ranges, which are disjoint and sorted (topology.Concerns), unless the
// route is wider than a /8, comes with an address of this host, or is the first by its gateway and
// device. With nil it leaves out none.
//
// Errors of files besides the kernel are part of the result, because routes don't depend on them.
func (k *Kernel) Facts(_ context.Context, concerns []netip.Prefix) (topology.Host, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.concern(concerns)
	k.catchUp()
	if err := k.load(); err != nil {
		return topology.Host{}, err
	}
	servers, err := nameservers(k.cfg.ResolvConf, k.cfg.ResolvConfNeeded)
	if err == nil {
		k.servers = servers
	}
	plugins, faults := k.cfg.CNI.Plugins()
	unfit, cni11 := k.examinePlugins(plugins)
	return topology.Host{
		Links: k.links.list, Routes: k.routes.foreign, RouteTable: k.routeTable(), NoIPv6: k.lacksIPv6(), Nameservers: k.servers,
		ConfigsBefore: k.cfg.CNI.Before(), Plugins: plugins, PluginProblems: faults, CNI11: cni11,
		Ports: k.links.ports(k.cfg.Bridge), Leases: k.cfg.CNI.Leases(),
		UnfitPlugins: unfit, Unseen: texts(err, k.blind), TableUnread: strings.Join(texts(k.unread), ""),
	}, nil
}

// examinePlugins examines all plugins that a config of ours may call: why some can't be executed, and
// which accept CNI 1.1.0.
func (k *Kernel) examinePlugins(further []topology.Plugin) (unfit map[string]string, cni11 []string) {
	all := topology.CNI{Firewall: true, Plugins: further}
	if k.plugins.Path == "" {
		return nil, nil
	}
	names := append(cni.RequiredBy(&all), cni.Chained(&all)...)
	return k.plugins.Unfit(names), k.plugins.CNI11(names)
}

// texts returns the messages of errors that are not nil.
func texts(errs ...error) []string {
	var all []string
	for _, err := range errs {
		if err != nil {
			all = append(all, err.Error())
		}
	}
	return all
}

// Observe returns our objects in the kernel. The caller must not change the result.
func (k *Kernel) Observe(context.Context) (topology.State, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil {
		return topology.State{}, err
	}
	k.routes.shown, k.peers.shown = true, true
	return topology.State{
		Sysctls: k.sysctls, Bridge: k.links.bridge(k.cfg.Bridge), Devices: k.links.devices(k.cfg.Bridge),
		Tunnels: k.links.tunnelList(), Neighbors: k.peers.neighbors, FDB: k.peers.fdb,
		Addresses: k.addresses(), Routes: k.routes.ours, RouteTable: k.cfg.RouteTable, Elsewhere: k.strays, Masquerade: k.masquerade, CNI: k.cfg.CNI.Read(),
	}, nil
}

// load reads what is stale, in this order: a reader may make what is read after it stale or fresh.
func (k *Kernel) load() error {
	for _, part := range []struct {
		fresh *bool
		read  func() error
	}{
		{&k.fresh.routes, k.loadRoutes}, {&k.fresh.ours, k.loadOurs}, {&k.fresh.peers, k.loadPeers}, {&k.fresh.sysctls, k.loadSysctls}, {&k.fresh.masquerade, k.loadTable},
	} {
		if *part.fresh {
			continue
		}
		if err := part.read(); err != nil {
			return err
		}
	}
	k.bulk = 0
	return nil
}

// A RouteError is the kernel's refusal of one route. It concerns that route's
// Node alone; all other errors of Apply concern this node.
type RouteError struct {
	Op    string
	Route topology.Route
	Err   error
}

func (e *RouteError) Error() string {
	return fmt.Sprintf("%s route %q: %v", e.Op, e.Route, e.Err)
}

func (e *RouteError) Unwrap() error { return e.Err }

// FailedRoute returns the route that was refused.
func (e *RouteError) FailedRoute() topology.Route { return e.Route }

// Apply makes the changes in their order. It is idempotent: an object that exists already, or is
// gone already, is not an error. A failure does not stop changes that don't depend on it; errors
// are joined, RouteErrors among them. After an error the kernel is read again.
//
// The CNI config is written only if all that this node's pods need is there, and if a pod's port
// can be made.
func (k *Kernel) Apply(_ context.Context, c plan.Changes) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.routes == nil {
		if err := k.load(); err != nil {
			return err
		}
	}
	var f failures
	all := c
	for _, b := range plan.Objects[plan.Bridge](c, plan.Add) {
		if f.own = k.addBridge(b); f.own != nil {
			c = c.WithoutDevice(b.Name)
		}
	}
	filter, c := c.BeforeTunnels()
	k.makeSteps(filter, &f)
	for _, t := range plan.Objects[plan.Tunnel](c, plan.Add, plan.Replace) {
		err := errUnfiltered
		if f.table == nil || t.Was.Name != "" {
			err = k.putTunnel(t)
		}
		if err != nil {
			f.own, c = errors.Join(f.own, part(t, err)), c.WithoutDevice(t.Name)
		}
	}
	before, rest := c.BeforeRoutes()
	k.makeSteps(before, &f)
	f.table = errors.Join(f.table, k.releaseNew())
	k.makeSteps(rest, &f)
	k.cover(k.masquerade)
	return f.end(k, all)
}

// failures are the errors of an Apply, by what depends on them.
type failures struct {
	own     error // of what this node's pods need, but for the table and settings
	setting error
	table   error
	routes  error // additions and changes
	staying error // routes that are not deleted
	config  error
}

// makeSteps makes the steps that don't depend on a failed one.
func (k *Kernel) makeSteps(c plan.Changes, f *failures) {
	for step := range c.Steps() {
		op := step[0].Op
		switch o := step[0].Object.(type) {
		case plan.Route:
			err := k.applyRoutes(op, plan.Objects[plan.Route](step, op))
			if op == plan.Delete {
				f.staying = errors.Join(f.staying, err)
			} else {
				f.routes = errors.Join(f.routes, err)
			}
		case plan.StrayRoute:
			if f.routes == nil && f.own == nil { // others take their place, by devices that are there
				f.staying = errors.Join(f.staying, k.deleteStrays(plan.Objects[plan.StrayRoute](step, op)))
			}
		case plan.Table, plan.Sets:
			if op != plan.Delete || f.table == nil && f.staying == nil { // a destination is in the sets for as long as its route is there
				f.table = errors.Join(f.table, k.changeTable(step[0]))
			}
		case plan.Neighbor, plan.FDBEntry:
			f.own = errors.Join(f.own, k.changePeers(op, step))
		case plan.Sysctl:
			f.setting = errors.Join(f.setting, k.makeOwn(step))
		case plan.Config:
			if f.ownError() == nil {
				f.config = k.applyCNI(op, o)
			}
		default:
			f.own = errors.Join(f.own, k.makeOwn(step))
		}
	}
}

// makeOwn makes a step of other objects than routes, the table and the CNI config. Of devices the
// bridge is the last: with a port in it, it sends at once, otherwise only after the kernel has
// checked its carrier, once a second (dev_activate of net/sched/sch_generic.c).
func (k *Kernel) makeOwn(step plan.Changes) error {
	master := func(c plan.Change) string {
		d, _ := c.Object.(plan.Device)
		return d.Master
	}
	step = slices.Clone(step)
	slices.SortStableFunc(step, func(a, b plan.Change) int { return cmp.Compare(master(b), master(a)) })
	var errs []error
	for _, c := range step {
		errs = append(errs, part(c.Object, k.makeOne(c)))
	}
	return errors.Join(errs...)
}

func (k *Kernel) makeOne(c plan.Change) error {
	switch o := c.Object.(type) {
	case plan.MTU:
		return k.setMTU(o)
	case plan.Sysctl:
		return k.writeSysctl(o)
	case plan.Device:
		k.fresh.routes = false
		if err := k.setDevice(o.Device); err != nil && !errors.Is(err, unix.ENODEV) { // else its pod has gone
			return fmt.Errorf("setting %s: %w", o, err)
		}
	case plan.Address:
		return k.changeAddress(c.Op, o)
	case plan.Tunnel:
		if c.Op == plan.Delete { // Apply puts the others before all steps
			return k.deleteTunnel(o.Name)
		}
	case plan.Bridge:
		if c.Op == plan.Delete { // Apply adds it before all steps
			return k.deleteBridge(o.Name)
		}
	}
	return nil
}

// ownError returns the errors that keep the CNI config from being written: all but refusals of
// single routes.
func (f *failures) ownError() error {
	err := errors.Join(f.own, f.setting, part(plan.Table{}, f.table))
	if routes := errors.Join(f.routes, f.staying); errors.Is(routes, unix.EPERM) {
		return errors.Join(err, routes)
	}
	return err
}

// end makes the next pass read the kernel after an error, or after a write of the table, and
// returns all errors. A table that is refused while nothing else changes may be refused for as long
// as the kernel runs, so then only the table is read again.
func (f *failures) end(k *Kernel, c plan.Changes) error {
	routes := errors.Join(f.routes, f.staying)
	others := errors.Join(f.own, f.setting, routes)
	onlyTable := !slices.ContainsFunc(c, func(x plan.Change) bool { return x.Kind() != plan.KindTable && x.Kind() != plan.KindCNI })
	switch {
	case others == nil && f.table != nil && onlyTable:
		k.fresh.masquerade = false
	case others != nil || f.table != nil || len(plan.Objects[plan.Table](c, plan.Add, plan.Replace)) > 0:
		k.fresh = freshness{}
	}
	return errors.Join(errors.Join(f.ownError(), f.config), routes)
}

func (k *Kernel) applyCNI(op plan.Op, c plan.Config) error {
	if op == plan.Delete {
		return k.cfg.CNI.Remove()
	}
	if err := k.tryPort(*c.CNI); err != nil {
		return part(c, err)
	}
	return k.cfg.CNI.Write(*c.CNI)
}

func (k *Kernel) sysctlFile(path string) string {
	return filepath.Join(k.cfg.ProcSys, filepath.FromSlash(path))
}
