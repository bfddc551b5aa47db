package controllers

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"k8s.io/client-go/util/workqueue"

	"github.com/plainroute/plainroute/pkg/idle"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A failed object is retried after firstRetry, and the wait doubles up to lastRetry.
const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Keys of failures that are not about one object. Each has one retry state.
var (
	hostKey   = plan.Key{Kind: "this host"}          // it can't be read
	verifyKey = plan.Key{Kind: "what was written"}   // the kernel does not hold it
	otherKey  = plan.Key{Kind: "a change to a host"} // the error names no object
	configKey = plan.Change{Object: plan.Config{}}.Key()
	tableKey  = plan.Key{Kind: plan.KindTable, Name: topology.Table} // in errors of Apply and Facts
)

// stepError is the error of a step of a pass: reading this host, writing the CNI config, or verifying
// that the kernel holds what it accepted.
type stepError struct {
	key plan.Key
	err error
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// retries keeps a backoff for each object that fails, so that a route that the kernel always refuses
// delays no other change.
type retries struct {
	backoff workqueue.TypedRateLimiter[plan.Key]
	failing map[plan.Key]struct{}
}

func newRetries() *retries {
	return &retries{
		backoff: workqueue.NewTypedItemExponentialFailureRateLimiter[plan.Key](firstRetry, lastRetry),
		failing: map[plan.Key]struct{}{},
	}
}

// after records what failed in a pass, and returns when to retry the first of it, 0: nothing failed. If
// the pass tried all changes, it forgets the objects that did not fail.
func (r *retries) after(failed map[plan.Key]bool, triedAll bool) time.Duration {
	wait := time.Duration(0)
	for k := range failed {
		wait = idle.Soonest(wait, r.backoff.When(k))
		r.failing[k] = struct{}{}
	}
	if !triedAll {
		return wait
	}
	for k := range r.failing {
		if !failed[k] {
			r.backoff.Forget(k)
			delete(r.failing, k)
		}
	}
	return wait
}

// failedKeys returns the keys of the objects that failed with the error of a pass.
func failedKeys(err error) map[plan.Key]bool {
	keys := map[plan.Key]bool{}
	for _, f := range failuresOf(err) {
		keys[f.key] = true
	}
	return keys
}

// A failure is one of the errors of a pass.
type failure struct {
	err    error
	key    plan.Key // of the object
	reason problem.Reason
	route  topology.Route // that alone failed, if the Reason is RouteFailed
}

// partReasons are the Reasons of failed objects by their kind. The CNI config fails as a part if the
// bridge that it names can't be made.
var partReasons = map[plan.Kind]problem.Reason{
	plan.KindSysctl: problem.SettingFailed, plan.KindTable: problem.TableFailed, plan.KindCNI: problem.BridgeFailed,
	plan.KindTunnel: problem.TunnelFailed, plan.KindNeighbor: problem.TunnelFailed, plan.KindFDB: problem.TunnelFailed,
	plan.KindAddress: problem.BridgeFailed, plan.KindBridge: problem.BridgeFailed, plan.KindDevice: problem.BridgeFailed,
}

// failuresOf returns the failures of the error of a pass. Errors that meet every route have one text.
func failuresOf(err error) []failure {
	var all []failure
	for _, e := range flatten(err) {
		f := failure{err: e, key: otherKey, reason: problem.KernelFailed}
		var route RouteFailure
		var part PartFailure
		var step *stepError
		switch {
		case errors.As(e, &route):
			f.route = route.FailedRoute()
			f.key = plan.Change{Object: plan.Route{Route: f.route}}.Key()
			if f.reason = problem.RouteFailed; blocksAllRoutes(e) {
				f.err, f.reason = fmt.Errorf("changing routes: %w", errors.Unwrap(route)), problem.KernelFailed
			}
		case errors.As(e, &part):
			f.key = part.FailedKey()
			f.reason = cmp.Or(partReasons[f.key.Kind], problem.KernelFailed)
		case errors.As(e, &step):
			if f.key = step.key; f.key == configKey {
				f.reason = problem.CNIFailed
			}
		}
		all = append(all, f)
	}
	return all
}

// blocksAllRoutes reports whether the error of one route meets all of them: without CAP_NET_ADMIN no
// route can be changed. The error EACCES is not of that kind: the kernel returns it if IPv6 is
// disabled on the route's device.
func blocksAllRoutes(err error) bool { return errors.Is(err, syscall.EPERM) }

// flatten returns the errors that were joined.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// achieved returns the changes that were made, from the error of Apply: all that it does not name. If it
// does not name all that failed, achieved returns the routes only, without those in other tables, which
// wait for devices.
func achieved(c plan.Changes, err error) plan.Changes {
	if err == nil {
		return c
	}
	failed := failedKeys(err)
	if failed[otherKey] {
		c = c.Filter(func(x plan.Change) bool {
			_, stray := x.Object.(plan.StrayRoute)
			return x.Kind() == plan.KindRoute && !stray
		})
	}
	done := c.Without(func(k plan.Key) bool { return failed[k] })
	if failed[tableKey] { // its sets follow the routes
		done = done.Except(plan.KindTable)
	}
	return done
}

// verify returns an error if the kernel lacks changes that it accepted. rest is what remains to be done
// after an Apply that returned err. Refused changes and removals may remain.
func verify(rest plan.Changes, err error) error {
	failed := failedKeys(err)
	rest = rest.WithoutRemovals().Without(func(k plan.Key) bool { return failed[k] })
	keys := rest.Except(plan.KindCNI).Keys()
	if len(keys) == 0 {
		return nil
	}
	what := keys[0].String()
	if more := len(keys) - 1; more > 0 {
		what += ", " + text.More(more, "")
	}
	return &stepError{verifyKey, fmt.Errorf("the kernel does not have what was written (%s); trying again", what)}
}

// blocks reports whether the error of a pass blocks readiness.
func blocks(err error, opts topology.Options) bool {
	return slices.ContainsFunc(failuresOf(err), func(f failure) bool { return f.blocks(opts) })
}

// blocks reports whether a failure blocks readiness. The route to a peer does not, nor do the limits of
// the neighbor table, which few clusters reach, nor the nftables table without masquerading and tunnels.
func (f failure) blocks(opts topology.Options) bool {
	switch f.reason {
	case problem.RouteFailed:
		return false
	case problem.TableFailed:
		return opts.NeedsTable()
	}
	return f.key.Kind != plan.KindSysctl || !topology.IsNeighSysctl(f.key.Name)
}
