// Package cleanup takes plainroute off one node: it is the loop with a zero State.
// What bears our mark goes, nothing else does, and no API server is asked.
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
	// Look reads the kernel anew: what the host is, and what of ours is there.
	Look(context.Context) (topology.Host, topology.State, error)
	// Apply makes changes; what is absent already is deleted already.
	Apply(context.Context, plan.Changes) error
}

// Cleanup is one cleanup of this node.
type Cleanup struct {
	Dataplane Dataplane
	Store     cni.Store
	// Force goes on while pods are attached; what they need among themselves stays.
	Force bool
	// DryRun changes nothing.
	DryRun bool
	// Wait is how long to wait for an agent to end.
	Wait time.Duration
	// DetachTimeout is how long to wait for the runtime to detach dead sandboxes, after the last one.
	DetachTimeout time.Duration
	// CacheDir is the runtime's account of what is attached, cni.CacheDir by default.
	CacheDir string
	// Say tells a person what is waited for.
	Say func(string)
}

// ErrRefused says that nothing was done because something of this network still
// runs here.
var ErrRefused = errors.New("refused")

// Run cleans, and tells what went. It can be repeated however it ended.
func (c Cleanup) Run(ctx context.Context) (Result, error) {
	result := Result{DryRun: c.DryRun}
	files := append(c.Store.Configs(), c.Store.Leftovers()...) // before the lock, which is one too
	s, err := c.look(ctx)
	if err != nil {
		return result, err
	}
	result.Settings, result.Kept = settings(s.State), s.kept(c.Store)
	if s.attached && !c.Force {
		result.Refusals = append(result.Refusals, s.busy())
	}
	if c.DryRun {
		if why := c.held(); why != "" {
			result.Refusals = append(result.Refusals, why)
		}
		result.Removed = without(inventory(s.State, files), inventory(s.desired(), s.keptFiles(c.Store)))
		return result, nil
	}
	if len(result.Refusals) > 0 {
		return result, fmt.Errorf("%w: %s", ErrRefused, result.Refusals[0])
	}
	release, err := c.lock(ctx)
	if err != nil {
		result.Refusals = refusals(err)
		return result, err
	}
	defer release()
	return result, c.detachAndClean(ctx, s.attached, files, &result)
}

// detachAndClean leaves the CNI config to the runtime until dead sandboxes are detached. Under
// pods it doesn't wait: these are attached, and their leases stay.
func (c Cleanup) detachAndClean(ctx context.Context, attached bool, files []string, result *Result) (err error) {
	if attached {
		return c.clean(ctx, files, result)
	}
	if result.Undetached, err = c.awaitDetach(ctx); err != nil {
		return err
	}
	switch s, err := c.look(ctx); { // the config was there, so pods may have come
	case err != nil:
		return err
	case s.attached && !c.Force:
		result.Refusals = append(result.Refusals, s.busy())
		return fmt.Errorf("%w: %s", ErrRefused, s.busy())
	}
	hadConfig := c.Store.Read() != nil
	if err := c.clean(ctx, files, result); err != nil || !hadConfig || len(result.Kept) > 0 {
		return err
	}
	return c.settle(ctx)
}

// A sight is what was seen of this host.
type sight struct {
	topology.State
	ports    int
	attached bool // pods, to our bridge
}

// busy says why nothing is taken away without Force.
func (s sight) busy() string {
	return fmt.Sprintf("pods are attached to bridge %s (ports: %d); drain this node, or --force, which leaves the bridge", s.Bridge, s.ports)
}

func (c Cleanup) look(ctx context.Context) (sight, error) {
	host, state, err := c.Dataplane.Look(ctx)
	if err != nil {
		return sight{}, fmt.Errorf("looking at this host: %w", err)
	}
	return sight{state, host.Ports, state.Bridge != "" && host.Ports > 0}, nil
}

// desired is the zero State, but for a bridge with pods on it, and for the addresses
// of a device that has the bridge's name and is none.
func (s sight) desired() topology.State {
	switch {
	case s.attached:
		return topology.State{Bridge: s.Bridge, Addresses: s.Addresses}
	case s.Bridge == "":
		return topology.State{Addresses: s.Addresses}
	}
	return topology.State{}
}

// keptFiles are those that stay under pods: the leases of their addresses.
func (s sight) keptFiles(store cni.Store) []string {
	if s.attached && slices.Contains(store.Leftovers(), store.LeaseDir()) {
		return []string{store.LeaseDir()}
	}
	return nil
}

func (c Cleanup) say(format string, args ...any) {
	if c.Say != nil {
		c.Say(fmt.Sprintf(format, args...))
	}
}

// lockInterval is how often it is looked whether the agent has ended.
const lockInterval = 100 * time.Millisecond

// lock waits for the agent's locks. Not even Force does without: an agent would put
// back within milliseconds what is taken away, and there is a way to end each.
func (c Cleanup) lock(ctx context.Context) (release func(), err error) {
	deadline := time.Now().Add(c.Wait)
	for said := false; ; said = true {
		release, why, err := c.tryLock(ctx)
		if why == "" {
			return release, err
		}
		if !time.Now().Before(deadline) {
			return nil, fmt.Errorf("%w: %s", ErrRefused, why)
		}
		if !said {
			c.say("waiting up to %s for the agent on this node to end", c.Wait)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the agent to end: %w", ctx.Err())
		case <-time.After(lockInterval):
		}
	}
}

// tryLock takes the lock of the run folder and that of the network namespace. Where an agent holds
// one of them it says so, and has made no file. A process that is no agent keeps nobody from a
// cleanup.
func (c Cleanup) tryLock(ctx context.Context) (release func(), why string, err error) {
	if why := c.held(); why != "" {
		return nil, why, nil
	}
	folder, err := c.Store.TakeLock()
	if cni.Held(err) {
		return nil, runs(lockIn(c.Store)), nil
	}
	if err != nil {
		return nil, "", err
	}
	namespace, err := nslock.Take(ctx, "cleanup, run folder "+c.Store.RunDir)
	if held := new(nslock.HeldError); errors.As(err, &held) {
		return nil, runs(held.Holder), folder.Close()
	}
	return func() {
		_ = folder.Close()
		if namespace != nil {
			_ = namespace.Close()
		}
	}, "", nil
}

// held says why lock would refuse now, and takes nothing.
func (c Cleanup) held() string {
	held := new(nslock.HeldError)
	switch {
	case errors.As(nslock.Find(), &held):
		return runs(held.Holder)
	case c.Store.Held():
		return runs(lockIn(c.Store))
	}
	return ""
}

func lockIn(s cni.Store) string { return "it holds the lock in " + s.RunDir }

func runs(holder string) string {
	return fmt.Sprintf("an agent runs on this node (%s) and would put everything back; stop it first", holder)
}

// clean does it, once no agent can come. It takes the CNI config away first, so
// that no pod comes either.
func (c Cleanup) clean(ctx context.Context, files []string, result *Result) error {
	if len(c.Store.Configs()) > 0 {
		if err := c.Dataplane.Apply(ctx, plan.Of(plan.Delete, plan.Config{})); err != nil {
			return err
		}
	}
	before, err := c.look(ctx)
	if err != nil {
		return err
	}
	had := inventory(before.State, files) // what was seen is valid until Apply only
	err = errors.Join(
		c.Dataplane.Apply(ctx, plan.Diff(before.desired(), before.State).Except(plan.KindCNI)),
		c.Store.Clear(!before.attached),
	)
	after, lookErr := c.look(ctx)
	if lookErr != nil {
		return errors.Join(err, lookErr)
	}
	result.Kept = after.kept(c.Store)
	result.Removed = without(had, inventory(after.State, append(c.Store.Configs(), c.Store.Leftovers()...)))
	return errors.Join(err, left(plan.Diff(before.desired(), after.State), c.Store))
}

// left says what is still there, in spite of all.
func left(changes plan.Changes, store cni.Store) error {
	files, rest := store.Configs(), changes.Except(plan.KindCNI).Filter(func(x plan.Change) bool { return x.Op == plan.Delete })
	if len(rest) == 0 && len(files) == 0 {
		return nil
	}
	return fmt.Errorf("some of it is still there, or back (%d routes, table %t, bridge %t, %d files); repeat the cleanup",
		len(rest.Only(plan.KindRoute)), rest.Has(plan.KindTable), rest.Has(plan.KindBridge), len(files))
}
