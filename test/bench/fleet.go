package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/test/testutil"
)

// A fleet is the part of many agents that the API server has to do with, in this process: nodes.Source as it is, each with a
// connection of its own, as cmd/plainroute configures it.
type fleet struct {
	config   *rest.Config
	received atomic.Int64  // bytes, TLS included
	dialed   atomic.Int64  // connections
	calmed   time.Duration // spent in settle after the last of it
	agents   []*fleetAgent
}

type fleetAgent struct {
	source *nodes.Source
	saved  *nodes.Saved // the view by which it started; nil: none
	cancel context.CancelFunc
	ended  chan struct{}

	mu    sync.Mutex
	conns []net.Conn // that it has opened
}

// start starts an agent, with the saved view if there is one.
func (f *fleet) start(ctx context.Context, index int, saved *nodes.Saved) error {
	a := &fleetAgent{saved: saved, ended: make(chan struct{})}
	config := rest.CopyConfig(f.config)
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) { // its own, or client-go shares connections
		return f.dial(ctx, a, network, address)
	}
	source, err := nodes.New(config, nil)
	if err != nil {
		return err
	}
	source.Own = nodeName(index)
	if saved != nil {
		source.Restore(saved)
	}
	a.source = source
	ctx, a.cancel = context.WithCancel(ctx)
	go func() {
		defer close(a.ended)
		a.source.Run(ctx, func() {})
	}()
	f.agents[index] = a
	return nil
}

// view returns what an agent would leave if it ended: the view by which it started, if the API server has sent nothing since.
func (a *fleetAgent) view() *nodes.Saved { return cmp.Or(a.source.Saved(), a.saved) }

// stop ends an agent and its connections, which client-go would keep open and a process that ends doesn't.
func (a *fleetAgent) stop() {
	a.cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		c.Close()
	}
}

// restart ends some agents and starts them at once, each with the view that it saved or without.
func (f *fleet) restart(ctx context.Context, from, to int, saved bool) error {
	var views []*nodes.Saved
	for _, a := range f.agents[from:to] {
		views = append(views, a.view())
		a.stop()
	}
	for _, a := range f.agents[from:to] {
		<-a.ended
	}
	for i, view := range views {
		if !saved {
			view = nil
		} else if view == nil {
			return fmt.Errorf("agent %d has no view to save", from+i)
		}
		if err := f.start(ctx, from+i, view); err != nil {
			return err
		}
	}
	return nil
}

// dial connects, and counts what arrives.
func (f *fleet) dial(ctx context.Context, a *fleetAgent, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	f.dialed.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = append(a.conns, conn)
	return &countedConn{conn, &f.received}, nil
}

type countedConn struct {
	net.Conn
	received *atomic.Int64
}

// Read counts what it reads.
func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

// watching returns how many agents have Nodes and an open watch.
func (f *fleet) watching() int {
	n := 0
	for _, a := range f.agents {
		if a == nil {
			continue
		}
		if h := a.source.Health(); h.Synced && h.Watching {
			n++
		}
	}
	return n
}

const (
	// fleetTick is how often a fleet is looked at.
	fleetTick = 100 * time.Millisecond
	// calm is how long little has to arrive before a fleet counts as settled, and murmur how little, in bytes for each
	// agent: bookmarks and PINGs.
	calm   = 2 * time.Second
	murmur = 2000
)

// settle waits until all agents watch and nothing but bookmarks and PINGs has arrived for a while. That
// while counts as calmed.
func (f *fleet) settle(ctx context.Context) error {
	since, before := time.Now(), f.received.Load()
	logged := since
	for {
		if err := testutil.Pause(ctx, fleetTick); err != nil {
			return fmt.Errorf("waiting for %d of %d agents: %w", len(f.agents)-f.watching(), len(f.agents), err)
		}
		now, received, watching := time.Now(), f.received.Load(), f.watching()
		if watching < len(f.agents) || received-before > int64(murmur*len(f.agents)) {
			since, before = now, received
		}
		if now.Sub(since) >= calm {
			f.calmed += now.Sub(since)
			return nil
		}
		if now.Sub(logged) > 10*time.Second {
			progress("  %d of %d watch, %.0f MB received, %d connections so far", watching, len(f.agents), float64(received)/1e6, f.dialed.Load())
			logged = now
		}
	}
}
