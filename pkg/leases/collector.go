// Package leases gives back the addresses of pods that died without the CNI command DEL.
//
// host-local keeps a lease until DEL names its container, and no stock plugin implements GC. After a
// crash of the container runtime, or where a plugin of the chain fails, nobody calls DEL, and a node
// runs out of addresses.
package leases

import (
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

// A Collector releases each lease whose address has been in no network namespace for a while. A live
// pod's address is in its namespace, whether its port is up, in the bridge, elsewhere or deleted: a
// namespace keeps the leases that were seen in it for as long as it exists.
//
// Of a namespace that has shown no leased address (gVisor takes it off the device, a pod may have taken it
// off, and one in the making has none yet), the lease is not known. It is none that was seen before the namespace was, because the plugin
// makes the device first, and none that came much later. What came in between stays.
type Collector struct {
	Store Store
	Host  Host
	Log   logr.Logger
	// Bridge is that of the pods.
	Bridge string
	// LinkChanges counts the links that have come to this host and gone from it.
	LinkChanges func() uint64

	// Period is how often leases are looked at; zero: 10 s.
	Period time.Duration
	// Grace is how long a lease must have been of no pod; zero: 20 s. A runtime that works
	// has called DEL by then.
	Grace time.Duration

	now     func() time.Time
	leases  map[cni.Lease]*lease
	guests  map[int]*guest
	settled settled
}

const (
	period = 10 * time.Second
	grace  = 20 * time.Second
	// making is longer than a plugin may take from the device to its address: the kubelet gives up
	// after 2 minutes (runtimeRequestTimeout), and the next look may be a period later.
	making = 5 * time.Minute
)

// A lease is what was seen of one.
type lease struct {
	since  time.Time // the first look at it
	orphan time.Time // the first of the latest looks by which it is of no pod; zero: it may be of one
}

// A guest is what was seen of a network namespace.
type guest struct {
	ports  []int // the latest
	cabled bool  // it has ports now
	since  time.Time
	shown  bool // it is foreign, or has had a leased address
	// latest are the addresses that the last look found. The lease of one may have come after the
	// leases were read, and the address may go before the next look.
	latest []netip.Addr
	addrs  map[netip.Addr]bool // all that it has had and that were leased
}

// settled is what was there when all leases were found to be of live pods, or to be kept for them. They
// still are until a lease or a link comes or a link goes.
type settled struct {
	leases  map[cni.Lease]bool
	changes uint64
}

// Run looks at leases until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	if c.Period == 0 {
		c.Period = period
	}
	if c.Grace == 0 {
		c.Grace = grace
	}
	ticker := time.NewTicker(c.Period)
	defer ticker.Stop()
	last := ""
	for {
		switch err := c.look(ctx); {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			last = ""
		case err.Error() != last: // once, while it lasts
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

// look releases what is ripe. The leases are read before the namespaces, so that a lease's pod is
// there to be seen.
func (c *Collector) look(ctx context.Context) error {
	changes := c.LinkChanges()
	held, err := c.Store.HeldLeases()
	if err != nil || c.settled.covers(held, changes) {
		return err
	}
	guests, err := c.Host.PeerNamespaces(c.Bridge)
	if err != nil {
		return fmt.Errorf("looking into network namespaces: %w", err)
	}
	now := c.time()
	c.see(now, held)
	c.meet(now, guests)
	c.settled = settled{}
	if c.allLast(held) {
		c.settled = settle(held, changes)
	}
	return c.release(ctx, c.ripe(now, held))
}

// allLast reports whether each lease is, or may be, that of a namespace to which a port leads, so that
// a lease can leak only when a link goes.
func (c *Collector) allLast(held []cni.Lease) bool {
	cabled := map[int]*guest{}
	for id, g := range c.guests {
		if g.cabled {
			cabled[id] = g
		}
	}
	lives := living(cabled, held)
	return !slices.ContainsFunc(held, func(l cni.Lease) bool { return !lives(l) && !mayBeOf(cabled, c.leases[l]) })
}

// living returns whether a lease is of a pod one of whose leased addresses its namespace has had.
func living(guests map[int]*guest, held []cni.Lease) func(cni.Lease) bool {
	found := map[netip.Addr]bool{}
	for _, g := range guests {
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

// ripe returns the leases that have been of no pod for long enough.
func (c *Collector) ripe(now time.Time, held []cni.Lease) []cni.Lease {
	lives := living(c.guests, held)
	var ripe []cni.Lease
	for _, l := range held {
		seen := c.leases[l]
		switch {
		case lives(l) || mayBeOf(c.guests, seen):
			seen.orphan = time.Time{}
		case seen.orphan.IsZero():
			seen.orphan = now
		case now.Sub(seen.orphan) >= c.Grace:
			ripe = append(ripe, l)
		}
	}
	return ripe
}

func (c *Collector) release(ctx context.Context, ripe []cni.Lease) error {
	if len(ripe) == 0 {
		return nil
	}
	slices.SortFunc(ripe, func(a, b cni.Lease) int { return a.Addr.Compare(b.Addr) })
	n, err := c.Store.Release(ctx, ripe)
	if n > 0 {
		c.Log.Info("Gave back addresses of pods that died without being detached", "addresses", n, "first", ripe[0].Addr.String(), "container", ripe[0].Container)
	}
	return err
}

func (c *Collector) time() time.Time {
	if c.now != nil {
		return c.now()
	}
	return time.Now()
}

// see remembers since when each lease is there.
func (c *Collector) see(now time.Time, held []cni.Lease) {
	seen := make(map[cni.Lease]*lease, len(held))
	for _, l := range held {
		if seen[l] = c.leases[l]; seen[l] == nil {
			seen[l] = &lease{since: now}
		}
	}
	c.leases = seen
}

// meet remembers what each namespace has had. One with other ports is another that got its number.
func (c *Collector) meet(now time.Time, guests []inspect.PeerNamespace) {
	leased := make(map[netip.Addr]bool, len(c.leases))
	for l := range c.leases {
		leased[l.Addr] = true
	}
	met := make(map[int]*guest, len(guests))
	for _, g := range guests {
		known := c.guests[g.ID]
		same := known != nil && (len(g.Ports) == 0 || slices.ContainsFunc(g.Ports, func(p int) bool { return slices.Contains(known.ports, p) }))
		if !same {
			known = &guest{since: now, addrs: map[netip.Addr]bool{}}
		}
		if known.cabled = len(g.Ports) > 0; known.cabled {
			known.ports = g.Ports
		}
		for _, addr := range slices.Concat(known.latest, g.Addrs) {
			if leased[addr] {
				known.addrs[addr] = true
			}
		}
		known.shown = g.Foreign || len(known.addrs) > 0
		known.latest = g.Addrs
		met[g.ID] = known
	}
	c.guests = met
}

// mayBeOf reports whether one of the namespaces that have shown no leased address may be that of the lease's pod.
func mayBeOf(guests map[int]*guest, l *lease) bool {
	for _, g := range guests {
		if !g.shown && !l.since.Before(g.since) && l.since.Before(g.since.Add(making)) {
			return true
		}
	}
	return false
}

func settle(held []cni.Lease, changes uint64) settled {
	s := settled{leases: make(map[cni.Lease]bool, len(held)), changes: changes}
	for _, l := range held {
		s.leases[l] = true
	}
	return s
}

// covers reports whether nothing has come or gone, but leases that were given back.
func (s settled) covers(held []cni.Lease, changes uint64) bool {
	return s.leases != nil && changes == s.changes && !slices.ContainsFunc(held, func(l cni.Lease) bool { return !s.leases[l] })
}
