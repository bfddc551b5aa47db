// Package controllers holds the loop: any change of the Nodes or of this host leads to a pass,
// and each pass compares all Nodes with the whole host.
package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/plainroute/plainroute/pkg/idle"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/ratelog"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Dataplane reads and changes this host.
type Dataplane interface {
	// Facts returns the state of the host without our own objects. It may leave out foreign
	// routes that overlap none of the ranges, which are disjoint and sorted; nil: none.
	Facts(ctx context.Context, concerns []netip.Prefix) (topology.Host, error)
	// Observe returns our own objects; the result is valid until the next Apply.
	Observe(context.Context) (topology.State, error)
	// Apply makes changes in their order. It is idempotent: deleting an absent object is
	// success. A failure stops the changes that depend on it, and no others. Errors are joined;
	// those that concern a single peer are of type RouteFailure, and those that concern one
	// object of this node of type PartFailure.
	Apply(context.Context, plan.Changes) error
}

// RouteFailure is an error of Apply that concerns one route alone.
type RouteFailure interface {
	error
	FailedRoute() topology.Route
}

// PartFailure is an error of Apply that concerns one object of this node alone.
type PartFailure interface {
	error
	FailedKey() plan.Key
}

// Watcher calls notify after changes to the host by other processes.
type Watcher interface {
	Watch(ctx context.Context, resync time.Duration, notify func()) error
}

// NodeSource keeps the Nodes of the API server in memory.
type NodeSource interface {
	// Run keeps the View up to date until ctx ends, and calls notify after each change.
	Run(ctx context.Context, notify func())
	// View returns the Nodes, and what has changed since the last call.
	View() nodes.View
	// Confirm starts a quorum read unless one that began after the given time has agreed with
	// the View. Its outcome is in a later View.
	Confirm(after time.Time)
}

// NodeStatus writes this node's readiness to its own Node, beside the loop.
type NodeStatus interface {
	// Run writes until ctx ends, and calls notify when Problems changes.
	Run(ctx context.Context, notify func())
	// Update passes on whether this node is ready, and the state of its own Node, which may be nil.
	Update(ready bool, own *nodes.OwnState)
	// Problems returns why writing fails.
	Problems() []problem.Problem
}

// EventWriter records Problems as Events on the Node, beside the loop.
type EventWriter interface {
	// Run writes until ctx ends.
	Run(ctx context.Context)
	// Update passes on the result of a pass.
	Update(*status.Result)
}

// ServiceRanges keeps the cluster's ranges of Services, beside the loop.
type ServiceRanges interface {
	// Run keeps them up to date until ctx ends, and calls notify when the result of Ranges changes.
	Run(ctx context.Context, notify func())
	// Ranges returns the ranges, nil: they are unknown; and what is wrong with them.
	Ranges() ([]netip.Prefix, []problem.Problem)
}

// NodeReconciler applies to this host what follows from the Nodes.
type NodeReconciler struct {
	Options   topology.Options
	Nodes     NodeSource
	Dataplane Dataplane
	Watcher   Watcher
	Resync    time.Duration // the period after which the whole host is read again
	Latest    *status.Latest
	Metrics   *Metrics
	Version   string

	ConfigPath string        // the path of our CNI config, as operators see it; empty on a router
	NodeStatus NodeStatus    // may be nil
	Events     EventWriter   // may be nil
	Services   ServiceRanges // takes the place of Options.ServiceCIDRs once it has ranges; may be nil

	running atomic.Pointer[time.Time] // start of the running pass
	ledger  ledger
	held    removals
	retries *retries
	flaps   *flapGuard
	unread  *unreadConfig
	log     *ratelog.Log
	gc      idle.GC
}

const stuckAfter = time.Minute // longer than any pass takes that ends at all

// Healthy returns an error if the running pass takes too long.
func (r *NodeReconciler) Healthy() error {
	if start := r.running.Load(); start != nil && time.Since(*start) > stuckAfter {
		return fmt.Errorf("the pass that began at %s has not ended", start.Format(time.RFC3339))
	}
	return nil
}

// Run runs the loop, and what starts passes, until ctx ends. It returns an error if watching the host
// fails: a new agent reads the whole host, and in a container has new mounts.
func (r *NodeReconciler) Run(ctx context.Context) error {
	r.flaps, r.retries = newFlapGuard(time.Now), newRetries()
	r.unread, r.log = cmp.Or(r.unread, &unreadConfig{now: time.Now}), cmp.Or(r.log, ratelog.New(time.Now))
	// A burst of changes leads to one pass, because each channel holds one value.
	due, news, nodeNews := make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	all, ctx := errgroup.WithContext(ctx)
	run := func(f func(context.Context)) { all.Go(func() error { f(ctx); return nil }) }
	all.Go(func() error {
		if err := r.Watcher.Watch(ctx, r.Resync, func() { idle.Signal(news) }); err != nil {
			return fmt.Errorf("watching this host: %w", err)
		}
		return nil
	})
	if r.NodeStatus != nil {
		run(func(ctx context.Context) { r.NodeStatus.Run(ctx, func() { idle.Signal(news) }) })
	}
	if r.Events != nil {
		run(r.Events.Run)
	}
	if r.Services != nil {
		run(func(ctx context.Context) { r.Services.Run(ctx, func() { idle.Signal(news) }) })
	}
	// Nothing waits for its end: between two lists the reflector waits up to 30 s, also once ctx has ended.
	go r.Nodes.Run(ctx, func() { idle.Signal(nodeNews) })
	run(func(ctx context.Context) { forward(ctx, nodeNews, due) })
	run(func(ctx context.Context) { forward(ctx, news, due) })
	run(func(ctx context.Context) { idle.Repeat(ctx, due, r.guarded) })
	return all.Wait()
}

// guarded is Reconcile, and retries after a panic, so that one Node can't end the agents of all nodes.
func (r *NodeReconciler) guarded(ctx context.Context) (wait time.Duration) {
	defer func() {
		if p := recover(); p != nil {
			logr.FromContextOrDiscard(ctx).Error(nil, "A pass panicked, which is a fault of plainroute; it is repeated", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			r.Metrics.failures.Inc()
			r.ledger.incremental, r.ledger.concerns = topology.Incremental{}, nil // the panic may have left a part of them
			wait = r.retries.after(map[plan.Key]bool{otherKey: true}, false)
		}
	}()
	return r.Reconcile(ctx)
}

// A routing daemon that changes routes all the time, or a kubelet that writes its Node as fast
// as it may, leads to newsPerSecond passes at most; the first newsAtOnce are not delayed.
const (
	newsPerSecond = 20
	newsAtOnce    = 20
)

func forward(ctx context.Context, news <-chan struct{}, due chan<- struct{}) {
	budget := rate.NewLimiter(newsPerSecond, newsAtOnce)
	for {
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
		if budget.Wait(ctx) == nil {
			idle.Signal(due)
		}
	}
}

// A pass is the state of the running pass.
type pass struct {
	begin  time.Time
	view   nodes.View
	result *status.Result
	unread bool // our nftables table could not be read
	saw    bool // this host was read

	done plan.Changes
	left plan.Changes // to do: found by the last compute, and not done since
	err  error
}

// Reconcile is one pass: observe, compute, diff, apply, report. It returns when the next one is due,
// 0: after the next change. A failure is a Problem in the report.
func (r *NodeReconciler) Reconcile(ctx context.Context) time.Duration {
	defer r.running.Store(nil)
	p := r.begin()
	if p.view.Synced {
		p.err = r.converge(ctx, p)
	} else {
		p.result.Problems = []problem.Problem{waiting(p.view)}
	}
	return r.report(ctx, p)
}

// begin starts a pass with the desired state of the last one, which holds if the host can't be
// read.
func (r *NodeReconciler) begin() *pass {
	p := &pass{begin: time.Now(), view: r.Nodes.View()}
	r.running.Store(&p.begin)
	if r.Services != nil {
		if ranges, _ := r.Services.Ranges(); ranges != nil {
			r.Options.ServiceCIDRs = ranges
		}
	}
	last := r.Latest.Last()
	p.result = &status.Result{
		Version: r.Version, Node: r.Options.NodeName, Nodes: p.view.Nodes,
		Desired: last.Desired, Known: last.Known, Host: last.Host, API: APIStatus(p.view.Health), History: &r.Latest.History,
	}
	if p.view.Synced && (p.nodesChanged() || r.ledger.concerns == nil) {
		r.ledger.concerns = r.ledger.incremental.Concerns(r.Options, p.view.Nodes)
	}
	return p
}

func (p *pass) nodesChanged() bool { return !p.view.Since.IsZero() }

// converge applies the desired state. The kubelet reports the node as ready once the CNI config
// is there, so converge reads the kernel again before it writes that.
func (r *NodeReconciler) converge(ctx context.Context, p *pass) error {
	changes, err := r.compute(ctx, p)
	if err != nil {
		return err
	}
	if kernel := changes.Except(plan.KindCNI); !kernel.Empty() {
		err = r.apply(ctx, p, kernel)
		r.Metrics.observeLatency(p.view.Since)
		if blocks(err, r.Options) || !changes.Has(plan.KindCNI) {
			return err
		}
		var again error
		if changes, again = r.compute(ctx, p); again == nil {
			again = verify(changes, err)
		}
		if again != nil {
			return errors.Join(err, again)
		}
	}
	if config := changes.Only(plan.KindCNI); !config.Empty() {
		if e := r.apply(ctx, p, config); e != nil {
			err = errors.Join(err, &stepError{configKey, e})
		}
	}
	return err
}

// compute reads the host and returns the changes to the desired state, without removals that an
// incomplete view can't justify, and without repairs that the flap guard delays.
func (r *NodeReconciler) compute(ctx context.Context, p *pass) (plan.Changes, error) {
	host, err := r.Dataplane.Facts(ctx, r.ledger.concerns)
	if err != nil {
		return nil, &stepError{hostKey, fmt.Errorf("reading this host: %w", err)}
	}
	actual, err := r.Dataplane.Observe(ctx)
	if err != nil {
		return nil, &stepError{hostKey, fmt.Errorf("observing the kernel: %w", err)}
	}
	p.saw, p.unread = true, host.TableUnread != ""
	if r.ledger.wanted != nil {
		actual = actual.After(*r.ledger.wanted)
	} else {
		actual = actual.Granting(p.view.Grants)
	}
	desired, problems := r.desired(ctx, host, p.view.Nodes, actual)
	desired, changes, held := r.prune(p.view, desired, actual)
	p.left = changes
	p.result.Desired, p.result.Problems, p.result.Seen, p.result.Known = desired, slices.Concat(problems, held), true, true
	p.result.Host = r.hostOf(p.view.Nodes, host, desired)
	r.Metrics.found(len(actual.Routes), desired)
	return r.flaps.filter(changes), nil
}

// desired computes the desired state. Once a Resync it does so from nothing, too. That must give
// the same, or the incremental computation is at fault, and begins anew.
func (r *NodeReconciler) desired(ctx context.Context, host topology.Host, all []*topology.Node, actual topology.State) (topology.State, []problem.Problem) {
	desired, problems := r.ledger.incremental.Desired(r.Options, host, all, actual)
	if r.ledger.wanted == nil {
		r.ledger.audited = time.Now() // the first one is from nothing anyway
	}
	if time.Since(r.ledger.audited) < r.Resync {
		return desired, problems
	}
	r.ledger.audited = time.Now()
	full, found := topology.Desired(r.Options, host, all, actual)
	if plan.Diff(full, desired).Empty() && slices.Equal(found, problems) && slices.Equal(topology.Concerns(r.Options, all), r.ledger.concerns) {
		return desired, problems
	}
	r.Metrics.disagreements.Inc()
	logr.FromContextOrDiscard(ctx).Info("The incremental desired state was wrong, which is a fault of plainroute; computed it anew")
	r.ledger.incremental = topology.Incremental{}
	r.ledger.concerns = r.ledger.incremental.Concerns(r.Options, all)
	return full, found
}

// apply makes the changes, and records which were made.
func (r *NodeReconciler) apply(ctx context.Context, p *pass, changes plan.Changes) error {
	err := r.Dataplane.Apply(ctx, changes)
	done := achieved(changes, err)
	p.done, p.left = append(p.done, done...), p.left.Minus(done)
	r.Metrics.wrote(done)
	return err
}

// retry returns when to retry the changes that failed, 0: none did.
func (r *NodeReconciler) retry(p *pass) time.Duration {
	failed := failedKeys(p.err)
	if p.unread {
		failed[tableKey] = true
	}
	return r.retries.after(failed, !failed[hostKey])
}
