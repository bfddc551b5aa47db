// Package leases gives back the addresses of pods that died without the CNI command DEL.
//
// host-local keeps a lease until DEL names its container, and no stock plugin implements GC. After
// a crash of the container runtime, or where a plugin of the chain fails, DEL is never called, and
// a node runs out of addresses.
package leases

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/go-logr/logr"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/inspect"
)

// Store is where host-local keeps its leases.
type Store interface {
	HeldLeases() ([]cni.Lease, error)
	Release(context.Context, []cni.Lease) (int, error)
}

// Host reads the network namespaces of pods.
type Host interface {
	PeerNamespaces(bridge string) ([]inspect.PeerNamespace, error)
}

// A Collector releases each lease whose address has been in no network namespace for a while. A
// live pod's address is in its namespace, whether its port is up, in the bridge, elsewhere or
// deleted: a namespace keeps the leases that were seen in it for as long as it exists.
//
// A namespace may show no leased address: gVisor takes it off the device, a pod can do the same,
// and a new one has none yet. Its lease is not older than the namespace, because the plugin makes
// the device first, and not much younger. A lease of that time is kept.
type Collector struct {
	Store Store
	Host  Host
	Log   logr.Logger
	// Bridge is the pods' bridge.
	Bridge string
	// LinkChanges counts the links that were added to this host or deleted.
	LinkChanges func() uint64

	// Period is the time between two scans; zero: 10 s.
	Period time.Duration
	// Grace is how long a lease must have been without a pod; zero: 20 s. A working runtime has
	// called DEL by then.
	Grace time.Duration

	now        func() time.Time
	leases     map[cni.Lease]*lease // replaced by each scan
	namespaces map[int]*namespace
	// settled are the leases when all belonged, or might belong, to live pods, and changes was
	// LinkChanges then. They still do until a lease or a link is added or a link is deleted.
	settled map[cni.Lease]*lease
	changes uint64
}

const (
	period = 10 * time.Second
	grace  = 20 * time.Second
	// setupTimeout is longer than a plugin may take from the device to its address: the kubelet
	// gives up after 2 minutes (runtimeRequestTimeout), and the next scan may be a period later.
	setupTimeout = 5 * time.Minute
)

type lease struct {
	since  time.Time // the first scan that saw it
	orphan time.Time // the first of the latest scans that found no pod of it; zero: it may have one
}

// A namespace is what the scans have seen of a network namespace.
type namespace struct {
	ports    []int // the latest
	hasPorts bool  // now
	since    time.Time
	resolved bool // it is foreign, or has had a leased address
	// latest are the addresses of the last scan. The lease of one may be newer than that scan's
	// list of leases, and the address may be gone at the next scan.
	latest []netip.Addr
	addrs  map[netip.Addr]bool // all that it has had and that were leased
}

// Run scans until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	c.Period, c.Grace, c.now = cmp.Or(c.Period, period), cmp.Or(c.Grace, grace), time.Now
	ticker := time.NewTicker(c.Period)
	defer ticker.Stop()
	last := ""
	for {
		switch err := c.scan(ctx); {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			last = ""
		case err.Error() != last: // log it once
			last = err.Error()
			c.Log.Error(err, "Leaked addresses of pods can't be given back")
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// scan releases what is expired. It reads the leases before the namespaces, so that the namespace
// of a lease's pod exists by then.
func (c *Collector) scan(ctx context.Context) error {
	changes := c.LinkChanges()
	held, err := c.Store.HeldLeases()
	added := func(l cni.Lease) bool { return c.settled[l] == nil }
	if err != nil || c.settled != nil && changes == c.changes && !slices.ContainsFunc(held, added) {
		return err
	}
	namespaces, err := c.Host.PeerNamespaces(c.Bridge)
	if err != nil {
		return fmt.Errorf("reading the network namespaces of pods: %w", err)
	}
	now := c.now()
	seen := make(map[cni.Lease]*lease, len(held))
	for _, l := range held {
		if seen[l] = c.leases[l]; seen[l] == nil {
			seen[l] = &lease{since: now}
		}
	}
	c.leases = seen
	c.seeNamespaces(now, namespaces)
	c.settled = nil
	if c.allPlaced(held) {
		c.settled, c.changes = c.leases, changes
	}
	return c.release(ctx, c.expired(now, held))
}

// allPlaced reports whether each lease belongs, or may belong, to a namespace with a port on this
// host, so that a lease can leak only when a link goes.
func (c *Collector) allPlaced(held []cni.Lease) bool {
	connected := maps.Clone(c.namespaces)
	maps.DeleteFunc(connected, func(_ int, g *namespace) bool { return !g.hasPorts })
	lives := living(connected, held)
	return !slices.ContainsFunc(held, func(l cni.Lease) bool { return !lives(l) && !mayBeOf(connected, c.leases[l]) })
}

// living returns a function that reports whether a lease is of a pod whose namespace has had one of
// its leased addresses.
func living(namespaces map[int]*namespace, held []cni.Lease) func(cni.Lease) bool {
	found := map[netip.Addr]bool{}
	for _, g := range namespaces {
		maps.Copy(found, g.addrs)
	}
	containers := map[string]bool{}
	for _, l := range held {
		if found[l.Addr] && l.Container != "" {
			containers[l.Container] = true
		}
	}
	return func(l cni.Lease) bool { return found[l.Addr] || containers[l.Container] }
}

// expired returns the leases that have been without a pod for long enough.
func (c *Collector) expired(now time.Time, held []cni.Lease) []cni.Lease {
	lives := living(c.namespaces, held)
	var expired []cni.Lease
	for _, l := range held {
		seen := c.leases[l]
		switch {
		case lives(l) || mayBeOf(c.namespaces, seen):
			seen.orphan = time.Time{}
		case seen.orphan.IsZero():
			seen.orphan = now
		case now.Sub(seen.orphan) >= c.Grace:
			expired = append(expired, l)
		}
	}
	return expired
}

func (c *Collector) release(ctx context.Context, expired []cni.Lease) error {
	if len(expired) == 0 {
		return nil
	}
	slices.SortFunc(expired, func(a, b cni.Lease) int { return a.Addr.Compare(b.Addr) })
	n, err := c.Store.Release(ctx, expired)
	if n > 0 {
		c.Log.Info("Gave back addresses of pods that died without being detached", "addresses", n, "first", expired[0].Addr.String(), "container", expired[0].Container)
	}
	return err
}

// seeNamespaces records the addresses of each namespace. One with other ports is a new one with a
// reused number.
func (c *Collector) seeNamespaces(now time.Time, namespaces []inspect.PeerNamespace) {
	leased := make(map[netip.Addr]bool, len(c.leases))
	for l := range c.leases {
		leased[l.Addr] = true
	}
	seen := make(map[int]*namespace, len(namespaces))
	for _, g := range namespaces {
		known := c.namespaces[g.ID]
		same := known != nil && (len(g.Ports) == 0 || slices.ContainsFunc(g.Ports, func(p int) bool { return slices.Contains(known.ports, p) }))
		if !same {
			known = &namespace{since: now, addrs: map[netip.Addr]bool{}}
		}
		if known.hasPorts = len(g.Ports) > 0; known.hasPorts {
			known.ports = g.Ports
		}
		for _, addr := range slices.Concat(known.latest, g.Addrs) {
			if leased[addr] {
				known.addrs[addr] = true
			}
		}
		known.resolved = g.Foreign || len(known.addrs) > 0
		known.latest = g.Addrs
		seen[g.ID] = known
	}
	c.namespaces = seen
}

// mayBeOf reports whether a lease's pod may be that of a namespace which has shown no leased
// address.
func mayBeOf(namespaces map[int]*namespace, l *lease) bool {
	for _, g := range namespaces {
		if !g.resolved && !l.since.Before(g.since) && l.since.Before(g.since.Add(setupTimeout)) {
			return true
		}
	}
	return false
}
