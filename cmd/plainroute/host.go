//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/nslock"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// hostConfig returns the places of our objects on this host.
func (f *nodeFlags) hostConfig() dataplane.Config {
	return dataplane.Config{
		Bridge: f.bridge, ProcSys: f.procSys, ResolvConf: defaultResolvConf, CNI: cni.Store{ConfDir: f.cniConfDir, RunDir: f.runDir},
	}
}

// host reads everything at each Inspect, because no watch marks what has changed.
type host struct {
	*dataplane.Kernel
	// concerns are the ranges for which foreign routes are read; nil: none are, because there may
	// be a million.
	concerns []netip.Prefix
}

func (h host) Inspect(ctx context.Context) (topology.Host, topology.State, error) {
	h.Forget()
	facts, state, err := h.read(ctx)
	if err == nil && facts.TableUnread != "" { // it may hold objects of ours
		err = errors.New(facts.TableUnread)
	}
	return facts, state, err
}

func (h host) read(ctx context.Context) (topology.Host, topology.State, error) {
	facts, err := h.Facts(ctx, append([]netip.Prefix{}, h.concerns...)) // not nil, which stands for all
	if err != nil {
		return facts, topology.State{}, err
	}
	state, err := h.Observe(ctx)
	return facts, state, err
}

// openHost takes the bridge's name, if the config has none, and the routing table from the objects with
// our mark, so that an operator does not have to remember the agent's flags.
func openHost(ctx context.Context, config dataplane.Config) (host, error) {
	given := config.Bridge != ""
	config.Bridge = cmp.Or(config.Bridge, topology.Bridge)
	for {
		kernel, err := dataplane.New(config)
		if err != nil {
			return host{}, err
		}
		state, err := kernel.Observe(ctx)
		if err != nil {
			return host{}, errors.Join(fmt.Errorf("observing the kernel: %w", err), kernel.Close())
		}
		found, table := bridgeOf(state), routeTableOf(state)
		if given || found == "" {
			found = config.Bridge
		}
		if found == config.Bridge && table == config.RouteTable {
			return host{Kernel: kernel}, nil
		}
		if err := kernel.Close(); err != nil {
			return host{}, err
		}
		config.Bridge, config.RouteTable = found, table
	}
}

// routeTableOf returns the table with our routes: the one that was read, or if that has none, the
// first one that has.
func routeTableOf(s topology.State) int {
	if len(s.Routes) > 0 || len(s.Elsewhere) == 0 {
		return s.RouteTable
	}
	return s.Elsewhere[0].Table
}

// bridgeOf returns the bridge that our CNI config or our table names.
func bridgeOf(s topology.State) string {
	switch {
	case s.CNI != nil && s.CNI.Bridge != "":
		return s.CNI.Bridge
	case s.Masquerade != nil:
		return s.Masquerade.Bridge
	}
	return ""
}

// observe reads our objects in the kernel and in the CNI folder. It opens a Kernel of its own, so that
// the loop and a request for /status don't wait for each other.
func observe(config dataplane.Config) (topology.State, error) {
	kernel, err := dataplane.New(config)
	if err != nil {
		return topology.State{}, err
	}
	_, state, err := host{Kernel: kernel}.read(context.Background())
	return state, errors.Join(err, kernel.Close())
}

// leftover returns the objects with our mark.
func (f *statusFlags) leftover(ctx context.Context) status.Leftover {
	config := f.hostConfig()
	found := status.Leftover{Locked: config.CNI.Held(), Config: filepath.Join(f.cniConfDir, topology.Conflist)}
	host, err := openHost(ctx, config)
	if err == nil {
		var facts topology.Host
		facts, found.State, err = host.Inspect(ctx)
		found.Ports = facts.Ports
		err = errors.Join(err, host.Close())
	}
	if err != nil {
		found.Error = err.Error()
	}
	return found
}

// lock takes the locks of the run folder and of this network namespace, before it creates any file. The
// latter is nil if it can't be taken although no agent holds it: then the agent runs without.
func (f *agentFlags) lock(ctx context.Context, store *cni.Store) (lock *nslock.Lock, err error) {
	if err := nslock.Find(); err != nil {
		return nil, oneAgent(err)
	}
	if store.Lock, err = store.TakeLock(); err != nil {
		return nil, err
	}
	lock, err = nslock.Take(ctx, f.self())
	if errors.As(err, new(*nslock.HeldError)) {
		return nil, errors.Join(oneAgent(err), store.Lock.Close())
	}
	if err != nil {
		logr.FromContextOrDiscard(ctx).Info("Running without the lock that excludes a second agent, and retrying", "error", err.Error())
	}
	return lock, nil
}

// oneAgent adds the reason why a second agent can't run.
func oneAgent(err error) error {
	return fmt.Errorf("%w; two agents would delete each other's routes, which have the same mark", err)
}

// self describes this agent in the error of another agent that finds the lock taken.
func (f *agentFlags) self() string {
	if f.mode == modeRouter {
		return "router, run folder " + f.runDir
	}
	return fmt.Sprintf("node %s, run folder %s", cmp.Or(f.nodeName, os.Getenv("NODE_NAME")), f.runDir)
}
