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

	concerns []netip.Prefix // where foreign routes can matter to these Nodes

	started  passClock
	ledger   ledger
	held     removals
	retries  *retries
	rivals   *rivals
	unloaded *unreadConfig
	diary    *diary
	history  status.History
	sweeper  sweeper
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

// A pass is what is known of one while it runs.
type pass struct {
	begin  time.Time
	view   View
	result *status.Result
	unread bool // our nftables table
	saw    bool // this host

	done plan.Changes
	left plan.Changes // to do, as of the last look and what was done since
	err  error
}

// Reconcile is one pass: observe, compute, diff, apply, report.
func (r *NodeReconciler) Reconcile(ctx context.Context, _ Pass) (ctrl.Result, error) {
	p := r.begin()
	defer r.started.set(time.Time{})
	if p.view.Synced {
		p.err = r.converge(ctx, p)
	} else {
		p.result.Problems = []topology.Problem{waiting(p.view)}
	}
	return ctrl.Result{RequeueAfter: r.report(ctx, p)}, nil
}

// begin begins a pass with what is known before it: where the host can't be looked at, what was desired
// still is.
func (r *NodeReconciler) begin() *pass {
	p := &pass{begin: time.Now(), view: r.Nodes.View()}
	r.started.set(p.begin)
	last := r.Board.Last()
	p.result = &status.Result{
		Version: r.Version, Node: r.Options.NodeName, Nodes: p.view.Nodes,
		Desired: last.Desired, Known: last.Known, Host: last.Host, API: p.view.api(), History: &r.history,
	}
	if p.view.Synced && p.nodesChanged() {
		r.concerns = topology.Concerns(r.Options, p.view.Nodes)
	}
	return p
}

func (p *pass) nodesChanged() bool { return !p.view.Since.IsZero() }

// converge brings the host to where it should be. The CNI config makes kubelet say
// Ready, so before it is written the kernel is looked at once more.
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
			err = errors.Join(err, &cniError{e})
		}
	}
	return err
}

// compute looks at the host and returns what is to be done, less what an incomplete view could want back, and
// what somebody undoes all the time.
func (r *NodeReconciler) compute(ctx context.Context, p *pass) (plan.Changes, error) {
	host, err := r.Dataplane.Facts(ctx, r.concerns)
	if err != nil {
		return nil, &lookError{fmt.Errorf("learning about this host: %w", err)}
	}
	actual, err := r.Dataplane.Observe(ctx)
	if err != nil {
		return nil, &lookError{fmt.Errorf("observing the kernel: %w", err)}
	}
	p.saw, p.unread = true, host.TableUnread != ""
	if r.ledger.wanted != nil {
		actual = actual.After(*r.ledger.wanted)
	}
	desired, problems := topology.Desired(r.Options, host, p.view.Nodes, actual)
	desired, changes, held := r.prune(p.view, desired, actual)
	p.left = changes
	p.result.Desired, p.result.Problems, p.result.Seen, p.result.Known = desired, slices.Concat(problems, held), true, true
	p.result.Host = r.hostOf(host, desired)
	r.Metrics.found(len(actual.Routes), desired)
	return r.rivals.hold(changes), nil
}

// apply makes the changes, and notes which were made.
func (r *NodeReconciler) apply(ctx context.Context, p *pass, changes plan.Changes) error {
	err := r.Dataplane.Apply(ctx, changes)
	done := achieved(changes, err)
	p.done, p.left = append(p.done, done...), p.left.Minus(done)
	r.Metrics.wrote(done)
	return err
}

// report puts a pass into words, metrics and the log, and returns when the next one is due, 0: when there
// is news.
func (r *NodeReconciler) report(ctx context.Context, p *pass) time.Duration {
	books := r.ledger.Record(entry{
		nodesChanged: p.nodesChanged(), saw: p.saw, wanted: p.result.Desired, done: p.done, left: p.left,
		complete: p.err == nil, held: r.held.state != nil,
	})
	changes := r.Metrics.applied(p.done, books)
	r.rivals.repaired(books.repairs)
	r.diary.changes(log.FromContext(ctx), p.done.Without(r.rivals.fought))
	r.rivals.settle()
	r.rivals.tell(ctx)
	p.result.Undone = books.left
	wait := r.addProblems(p)
	p.result.Pass = status.Pass{Number: r.Board.Last().Pass.Number + 1, Time: p.begin, Duration: time.Since(p.begin), Changes: changes}
	p.result.Passes = status.Recent(r.Board.Last().Passes, p.result.Pass)
	p.result.Ready = len(p.result.Blocking()) == 0
	r.publish(ctx, p, books)
	r.Metrics.reported(p.result, blocks(p.err, r.Options))
	r.Herald.tell(p.result.Ready, p.view.standing)
	r.Events.tell(p.result)
	r.sweeper.afterPass()
	return soonest(r.retry(p), r.rivals.wait(), r.diary.wait(), inhabitedWait(p.result.Problems), wait)
}

// addProblems adds what is wrong besides what Desired found, and returns when to look at it again, 0: need not.
func (r *NodeReconciler) addProblems(p *pass) time.Duration {
	all := &p.result.Problems
	if p.err != nil {
		*all = append(*all, problemsOf(p.err, p.view.Nodes, r.Options)...)
	}
	*all = append(*all, r.rivals.problems(p.view.Nodes)...)
	*all = append(*all, r.Herald.problems()...)
	unread, wait := r.unloaded.look(p.result, p.view.standing, r.ConfigPath)
	*all = append(*all, unread...)
	slices.SortFunc(*all, topology.Problem.Compare)
	return wait
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
func (r *NodeReconciler) retry(p *pass) time.Duration {
	failed := failedKeys(p.err)
	if p.unread {
		failed[tableKey] = true
	}
	return r.retries.after(failed, !errors.As(p.err, new(*lookError)))
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

// publish puts the result where operators look, and into the log what of it is new.
func (r *NodeReconciler) publish(ctx context.Context, p *pass, books account) {
	logger := log.FromContext(ctx)
	before := r.Board.Last()
	was, is := map[topology.Problem]bool{}, setOf(p.result.Problems)
	if before.Pass.Number > 0 {
		was = setOf(before.Problems)
	}
	r.history.Note(before, p.result, touchedBy(p.done, books.repairs, was, is))
	r.Board.Publish(p.result)
	r.diary.problems(logger, "Problem", is, was)
	r.diary.problems(logger, "Problem gone", was, is)
	if p.result.Ready != before.Ready {
		r.diary.write(logger, topic{"readiness", ""}, "Readiness changed", "ready", p.result.Ready, "nodes", len(p.view.Nodes))
	}
	r.diary.catchUp(ctx)
}

func setOf(problems []topology.Problem) map[topology.Problem]bool {
	set := make(map[topology.Problem]bool, len(problems))
	for _, p := range problems {
		set[p] = true
	}
	return set
}
