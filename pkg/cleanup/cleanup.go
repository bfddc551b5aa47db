// Package cleanup removes plainroute from one node: it is the loop with a zero State. It deletes
// everything with our mark and nothing else, and needs no API server.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/nslock"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Dataplane is the host that is to be cleaned.
type Dataplane interface {
	// Inspect reads the kernel's state again: the host, and what of ours is there.
	Inspect(context.Context) (topology.Host, topology.State, error)
	// Apply makes changes; to delete what is absent succeeds.
	Apply(context.Context, plan.Changes) error
}

// Cleanup is one cleanup of this node.
type Cleanup struct {
	Dataplane     Dataplane
	Store         cni.Store
	Force         bool          // goes on while pods are attached; the bridge and the leases stay then
	DryRun        bool          // changes nothing
	Wait          time.Duration // for an agent to end
	DetachTimeout time.Duration // for the runtime to detach dead sandboxes, after the last one
	CacheDir      string        // the runtime's record of what is attached, cni.CacheDir by default
	Notify        func(string)  // receives messages for the operator about what the cleanup waits for
}

// ErrRefused is returned when nothing was done because an agent or pods of this network still run
// here.
var ErrRefused = errors.New("refused")

// Run cleans up and returns what it removed. It can be repeated however it ended.
func (c Cleanup) Run(ctx context.Context) (Result, error) {
	result := Result{DryRun: c.DryRun}
	files := append(c.Store.Configs(), c.Store.Leftovers()...) // before the lock, which is one too
	s, err := c.observe(ctx)
	if err != nil {
		return result, err
	}
	result.Settings, result.Kept = settings(s.State), s.kept(c.Store)
	err = result.refuse(c.busy(s))
	if c.DryRun {
		_ = result.refuse(c.held())
		result.Removed = without(inventory(s.State, files), inventory(s.desired(), s.keptFiles(c.Store)))
		return result, nil
	}
	if err != nil {
		return result, err
	}
	release, why, err := c.lock(ctx)
	if err := errors.Join(err, result.refuse(why)); err != nil {
		return result, err
	}
	defer release()
	return result, c.detachAndClean(ctx, s.attached, files, &result)
}

// detachAndClean leaves the CNI config to the runtime until dead sandboxes are detached. It doesn't
// wait while pods are attached, whose leases stay.
func (c Cleanup) detachAndClean(ctx context.Context, attached bool, files []string, result *Result) (err error) {
	if attached {
		return c.clean(ctx, files, result)
	}
	if result.Undetached, err = c.awaitDetach(ctx); err != nil {
		return err
	}
	s, err := c.observe(ctx) // the config was there, so pods may have come
	if err != nil {
		return err
	}
	if err := result.refuse(c.busy(s)); err != nil {
		return err
	}
	hadConfig := c.Store.Read() != nil
	if err := c.clean(ctx, files, result); err != nil || !hadConfig || len(result.Kept) > 0 {
		return err
	}
	return c.settle(ctx)
}

type observation struct {
	topology.State
	ports    int
	attached bool // pods, to our bridge
}

// busy returns why pods keep this host from being cleaned, or "".
func (c Cleanup) busy(s observation) string {
	if !s.attached || c.Force {
		return ""
	}
	return fmt.Sprintf("pods are attached to bridge %s (ports: %d); drain this node, or --force, which leaves the bridge", s.Bridge, s.ports)
}

func (c Cleanup) observe(ctx context.Context) (observation, error) {
	host, state, err := c.Dataplane.Inspect(ctx)
	if err != nil {
		return observation{}, fmt.Errorf("reading the state of this host: %w", err)
	}
	return observation{state, host.Ports, state.Bridge != "" && host.Ports > 0}, nil
}

// desired is the zero State, except for a bridge with pods on it, and for the addresses of a device
// with the bridge's name that is not a bridge.
func (s observation) desired() topology.State {
	switch {
	case s.attached:
		return topology.State{Bridge: s.Bridge, Addresses: s.Addresses}
	case s.Bridge == "":
		return topology.State{Addresses: s.Addresses}
	}
	return topology.State{}
}

// keptFiles returns the files that stay while pods are attached: the leases of their addresses.
func (s observation) keptFiles(store cni.Store) []string {
	if s.attached && slices.Contains(store.Leftovers(), store.LeaseDir()) {
		return []string{store.LeaseDir()}
	}
	return nil
}

func (c Cleanup) notify(format string, args ...any) {
	if c.Notify != nil {
		c.Notify(fmt.Sprintf(format, args...))
	}
}

// lock waits for the agent's locks. Force needs them too: an agent would restore within
// milliseconds what is removed, and an operator can stop any agent. If one keeps a lock, it returns
// why the cleanup is refused.
func (c Cleanup) lock(ctx context.Context) (release func(), why string, err error) {
	deadline := time.Now().Add(c.Wait)
	for notified := false; ; notified = true {
		release, why, err := c.tryLock(ctx)
		if why == "" || !time.Now().Before(deadline) {
			return release, why, err
		}
		if !notified {
			c.notify("waiting up to %s for the agent on this node to end", c.Wait)
		}
		if err := pause(ctx); err != nil {
			return nil, "", fmt.Errorf("waiting for the agent to end: %w", err)
		}
	}
}

// tryLock takes the lock of the run folder and that of the network namespace. If an agent holds one
// of them, it returns why, and makes no file. A process that is not an agent does not prevent a
// cleanup.
func (c Cleanup) tryLock(ctx context.Context) (release func(), why string, err error) {
	if why := c.held(); why != "" {
		return nil, why, nil
	}
	folder, err := c.Store.TakeLock()
	switch {
	case cni.Held(err):
		return nil, agentRuns(lockIn(c.Store)), nil
	case err != nil:
		return nil, "", err
	}
	namespace, err := nslock.Take(ctx, "cleanup, run folder "+c.Store.RunDir)
	if held := new(nslock.HeldError); errors.As(err, &held) {
		return nil, agentRuns(held.Holder), folder.Close()
	}
	return func() {
		_ = folder.Close()
		if namespace != nil {
			_ = namespace.Close()
		}
	}, "", nil
}

// held returns why lock would refuse now, or "". It takes no lock.
func (c Cleanup) held() string {
	held := new(nslock.HeldError)
	switch {
	case errors.As(nslock.Find(), &held):
		return agentRuns(held.Holder)
	case c.Store.Held():
		return agentRuns(lockIn(c.Store))
	}
	return ""
}

func lockIn(s cni.Store) string { return "it holds the lock in " + s.RunDir }

func agentRuns(holder string) string {
	return fmt.Sprintf("an agent runs on this node (%s) and would put everything back; stop it first", holder)
}

// clean removes everything, once no agent can start. The CNI config goes first, so that no pod
// comes either.
func (c Cleanup) clean(ctx context.Context, files []string, result *Result) error {
	if len(c.Store.Configs()) > 0 {
		if err := c.Dataplane.Apply(ctx, plan.Of(plan.Delete, plan.Config{})); err != nil {
			return err
		}
	}
	before, err := c.observe(ctx)
	if err != nil {
		return err
	}
	had := inventory(before.State, files) // the observation is valid until Apply
	err = errors.Join(
		c.Dataplane.Apply(ctx, plan.Diff(before.desired(), before.State).Except(plan.KindCNI)),
		c.Store.Clear(!before.attached),
	)
	after, inspectErr := c.observe(ctx)
	if inspectErr != nil {
		return errors.Join(err, inspectErr)
	}
	result.Kept = after.kept(c.Store)
	result.Removed = without(had, inventory(after.State, append(c.Store.Configs(), c.Store.Leftovers()...)))
	return errors.Join(err, remaining(plan.Diff(before.desired(), after.State), c.Store))
}

func remaining(changes plan.Changes, store cni.Store) error {
	files, rest := store.Configs(), changes.Except(plan.KindCNI).Filter(func(x plan.Change) bool { return x.Op == plan.Delete })
	if len(rest) == 0 && len(files) == 0 {
		return nil
	}
	return fmt.Errorf("some of it is still there, or back (%d routes, %d tunnels, table %t, bridge %t, %d files); repeat the cleanup",
		len(rest.Only(plan.KindRoute)), len(rest.Only(plan.KindTunnel)), rest.Has(plan.KindTable), rest.Has(plan.KindBridge), len(files))
}
