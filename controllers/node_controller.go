// Package controllers holds the loop: Nodes and the kernel's news come in, one
// request goes out, and each pass looks at the whole.
package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Dataplane is the host that is to be kept as it should be.
type Dataplane interface {
	// Facts returns what the host is, apart from what is ours. Foreign routes that
	// overlap none of the ranges, disjoint and sorted, may be left out; nil: none may.
	Facts(ctx context.Context, concerns []netip.Prefix) (topology.Host, error)
	// Observe tells what of ours is there; it is valid until the next Apply.
	Observe(context.Context) (topology.State, error)
	// Apply makes changes in their order. It is idempotent, and what is absent
	// already is deleted already, and a failure stops nothing that does not depend on
	// it. Errors are joined; those that concern a single peer are of type
	// RouteFailure, and those that concern one part of this node PartFailure.
	Apply(context.Context, plan.Changes) error
}

// RouteFailure is an error of Apply that concerns one route alone.
type RouteFailure interface {
	error
	FailedRoute() topology.Route
}

// PartFailure is an error of Apply that concerns one thing on this node alone.
type PartFailure interface {
	error
	FailedKey() plan.Key
}

// Watcher tells of changes that somebody else made to the host.
type Watcher interface {
	Watch(ctx context.Context, resync time.Duration, notify func()) error
}

// Pass is the one request, always equal to itself: any burst of news is one pass.
type Pass struct{}

// NodeReconciler keeps this host in step with the Nodes.
type NodeReconciler struct {
	Options   topology.Options
	Nodes     *NodeSource
	Dataplane Dataplane
	Watcher   Watcher
	// Resync is the period of the slow audit.
	Resync  time.Duration
	Board   *status.Board
	Metrics *Metrics
	Version string
	// ConfigPath is where our CNI config is, for operators; empty on a router.
	ConfigPath string
	// Herald tells the cluster that this node is ready; nil: nobody does.
	Herald *Herald
	// Events tells of this node's faults by Events of its Node; nil: nobody does.
	Events *Events

	number    int64
	retries   *retries
	unread    bool // our nftables table, in this pass
	unloaded  *unreadConfig
	known     map[topology.Problem]bool
	concerns  []netip.Prefix // where foreign routes can matter to these Nodes
	started   passClock
	rivals    *rivals
	diary     *diary
	asked     *topology.State     // what the last pass wanted
	asking    *topology.State     // what this one wants, as far as it has come
	held      *topology.State     // what stays although no Node asks for it
	heldSince time.Time           // since when, if it waits for a confirmation
	touched   status.Touched      // by this pass
	undone    plan.Changes        // what this pass has still to do
	moved     bool                // Nodes have changed since a pass last did all that they ask for
	postponed map[plan.Key]string // what passes could not make, and why it was asked for
	history   status.History
	sweeper   sweeper
}

// passClock knows how long the running pass has taken.
type passClock struct {
	mu    sync.Mutex
	start time.Time
}

func (c *passClock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = t
}

// stuckAfter is longer than any pass takes that will ever end.
const stuckAfter = time.Minute

// Healthy fails if the loop is stuck.
func (r *NodeReconciler) Healthy() error {
	r.started.mu.Lock()
	defer r.started.mu.Unlock()
	if t := r.started.start; !t.IsZero() && time.Since(t) > stuckAfter {
		return fmt.Errorf("the pass that began at %s has not ended", t.Format(time.RFC3339))
	}
	return nil
}

// SetupWithManager makes Nodes and the kernel drive the loop. If the host can't be
// watched any more, the manager ends: a new agent starts with a look at everything,
// and in a container with new mounts.
func (r *NodeReconciler) SetupWithManager(mgr ctrl.Manager) error {
	type queue = workqueue.TypedRateLimitingInterface[Pass]
	r.rivals, r.retries = newRivals(time.Now), newRetries()
	if r.unloaded == nil {
		r.unloaded = &unreadConfig{now: time.Now}
	}
	if r.diary == nil {
		r.diary = newDiary(time.Now)
	}
	news := make(chan struct{}, 1)
	watch := manager.RunnableFunc(func(ctx context.Context) error {
		if err := r.Watcher.Watch(ctx, r.Resync, func() { signal(news) }); err != nil {
			return fmt.Errorf("watching this host: %w", err)
		}
		return nil
	})
	if err := mgr.Add(watch); err != nil {
		return err
	}
	if r.Herald != nil {
		r.Herald.notify = func() { signal(news) }
		if err := mgr.Add(r.Herald); err != nil {
			return err
		}
	}
	if r.Events != nil {
		if err := mgr.Add(r.Events); err != nil {
			return err
		}
	}
	return builder.TypedControllerManagedBy[Pass](mgr).
		Named("node").
		WatchesRawSource(source.TypedFunc[Pass](func(ctx context.Context, q queue) error {
			q.Add(Pass{})
			nodeNews := make(chan struct{}, 1)
			go r.Nodes.Run(ctx, func() { signal(nodeNews) })
			go forward(ctx, nodeNews, q)
			go forward(ctx, news, q)
			return nil
		})).
		WithOptions(controller.TypedOptions[Pass]{MaxConcurrentReconciles: 1, NewQueue: restingQueue}).
		Complete(r)
}

// signal leaves one signal for however many there were.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A host whose routes change all the time, by a routing daemon say, or a kubelet
// that writes its Node as fast as it may, costs at most so many passes a second; the
// first ones come at once.
const (
	newsPerSecond = 20
	newsAtOnce    = 20
)

func forward(ctx context.Context, news <-chan struct{}, q workqueue.TypedInterface[Pass]) {
	budget := rate.NewLimiter(newsPerSecond, newsAtOnce)
	for {
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
		if budget.Wait(ctx) == nil {
			q.Add(Pass{})
		}
	}
}

// Reconcile is one pass: facts, desired State, difference, change, report.
func (r *NodeReconciler) Reconcile(ctx context.Context, _ Pass) (ctrl.Result, error) {
	begin := time.Now()
	r.started.set(begin)
	defer r.started.set(time.Time{})
	view := r.Nodes.View()
	r.number++
	r.moved = r.moved || !view.Since.IsZero()
	result := r.account(view)
	changes, err := 0, error(nil)
	if view.Synced {
		if !view.Since.IsZero() {
			r.concerns = topology.Concerns(r.Options, view.Nodes)
		}
		changes, err = r.pass(ctx, view, result)
		r.postpone()
		r.asked = r.asking
	} else {
		result.Problems = []topology.Problem{waiting(view)}
	}
	if err != nil {
		result.Problems = append(result.Problems, problemsOf(err, view.Nodes, r.Options)...)
	}
	r.rivals.settle()
	r.rivals.tell(ctx)
	result.Problems = append(result.Problems, r.rivals.problems(view.Nodes)...)
	result.Problems = append(result.Problems, r.Herald.problems()...)
	result.Undone = r.undone
	unread, wait := r.unloaded.look(result, view.standing, r.ConfigPath)
	result.Problems = append(result.Problems, unread...)
	slices.SortFunc(result.Problems, topology.Problem.Compare)
	result.Pass = status.Pass{Number: r.number, Time: begin, Duration: time.Since(begin), Changes: changes}
	result.Passes = status.Recent(r.Board.Last().Passes, result.Pass)
	result.Ready = len(result.Blocking()) == 0
	r.publish(ctx, result, view)
	r.Metrics.reported(result, blocks(err, r.Options))
	if err == nil {
		r.moved = r.held != nil
	}
	r.Herald.tell(result.Ready, view.standing)
	r.Events.tell(result)
	r.sweeper.afterPass()
	return ctrl.Result{RequeueAfter: soonest(r.retry(err), r.rivals.wait(), r.diary.wait(), inhabitedWait(result.Problems), wait)}, nil
}

// soonest returns the shortest of the waits that are any.
func soonest(waits ...time.Duration) time.Duration {
	least := time.Duration(0)
	for _, w := range waits {
		if w > 0 {
			least = min(cmp.Or(least, w), w)
		}
	}
	return least
}

// inhabitedWait returns when to look again for pods of a former subnet: that the
// last one has gone, nothing tells.
func inhabitedWait(problems []topology.Problem) time.Duration {
	if slices.ContainsFunc(problems, func(p topology.Problem) bool { return p.Reason == topology.SubnetChanged }) {
		return time.Second
	}
	return 0
}

// retry returns when to try again what has failed, 0: never. The error is a Problem by
// now; returned, it would be logged at each try.
func (r *NodeReconciler) retry(err error) time.Duration {
	failed := failedKeys(err)
	if r.unread {
		failed[tableKey] = true
	}
	return r.retries.after(failed, !errors.As(err, new(*lookError)))
}

// waiting says why there are no Nodes yet.
func waiting(view View) topology.Problem {
	p := topology.Problem{
		Reason: topology.APIUnavailable, Own: true,
		Detail: "waiting for the first list of Nodes; routes stay as they are",
	}
	if view.Err != nil {
		p.Detail += ": " + view.Err.Error()
	}
	return p
}

// pass brings the host to where it should be. The CNI config makes kubelet say
// Ready, so before it is written the kernel is looked at once more.
func (r *NodeReconciler) pass(ctx context.Context, view View, result *status.Result) (int, error) {
	changes, err := r.step(ctx, view, result)
	if err != nil {
		return 0, err
	}
	made := 0
	if !changes.KernelEmpty() {
		made, err = r.apply(ctx, changes.WithoutCNI(), result.Desired)
		r.Metrics.observeLatency(view.Since)
		if blocks(err, r.Options) || !changes.TouchesCNI() {
			return made, err
		}
		var again error
		if changes, again = r.step(ctx, view, result); again == nil {
			again = verify(changes, err)
		}
		if again != nil {
			return made, errors.Join(err, again)
		}
	}
	if changes.TouchesCNI() {
		written, e := r.apply(ctx, changes.OnlyCNI(), result.Desired)
		made += written
		if e != nil {
			err = errors.Join(err, &cniError{e})
		}
	}
	return made, err
}

// apply makes the changes, and tells metrics and log which were made. What a pass before could not make
// was never there, so it is no repair.
func (r *NodeReconciler) apply(ctx context.Context, changes plan.Changes, desired topology.State) (int, error) {
	err := r.Dataplane.Apply(ctx, changes)
	done := achieved(changes, err)
	var repairs []plan.Key
	if r.asked != nil {
		repairs = slices.DeleteFunc(done.Repairs(*r.asked, desired), func(k plan.Key) bool { return r.postponed[k] != "" })
		r.rivals.repaired(repairs)
	}
	touch(&r.touched, done, repairs)
	r.diary.changes(log.FromContext(ctx), done.Without(r.rivals.fought))
	r.undone = r.undone.Minus(done)
	return r.count(done, repairs), err
}

// step computes what is to be done, less what an incomplete view could want back.
func (r *NodeReconciler) step(ctx context.Context, view View, result *status.Result) (plan.Changes, error) {
	host, err := r.Dataplane.Facts(ctx, r.concerns)
	if err != nil {
		return plan.Changes{}, &lookError{fmt.Errorf("learning about this host: %w", err)}
	}
	actual, err := r.Dataplane.Observe(ctx)
	if err != nil {
		return plan.Changes{}, &lookError{fmt.Errorf("observing the kernel: %w", err)}
	}
	r.unread = host.TableUnread != ""
	if r.asked != nil {
		actual = actual.After(*r.asked)
	}
	desired, problems := topology.Desired(r.Options, host, view.Nodes, actual)
	desired, changes, held := r.prune(view, desired, actual)
	problems = append(problems, held...)
	result.Desired, result.Problems, result.Seen, result.Known = desired, problems, true, true
	result.Host = r.hostOf(host, desired)
	r.asking = &result.Desired
	r.undone = changes
	r.Metrics.found(len(actual.Routes), result.Desired)
	return r.rivals.hold(changes), nil
}

// publish tells the world, and the log only what is new.
func (r *NodeReconciler) publish(ctx context.Context, result *status.Result, view View) {
	logger := log.FromContext(ctx)
	before := r.Board.Last()
	known := make(map[topology.Problem]bool, len(result.Problems))
	for _, p := range result.Problems {
		known[p] = true
	}
	r.remember(before, result, known)
	r.Board.Publish(result)
	r.diary.problems(logger, "Problem", known, r.known)
	r.diary.problems(logger, "Problem gone", r.known, known)
	r.known = known
	if result.Ready != before.Ready {
		r.diary.write(logger, topic{"readiness", ""}, "Readiness changed", "ready", result.Ready, "nodes", len(view.Nodes))
	}
	r.diary.catchUp(ctx)
}
