package controllers

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/client-go/util/workqueue"

	"github.com/plainroute/plainroute/pkg/idle"
	"github.com/plainroute/plainroute/pkg/plan"
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
	for _, e := range flatten(err) {
		var route RouteFailure
		var part PartFailure
		var step *stepError
		switch {
		case errors.As(e, &route):
			keys[plan.Change{Object: plan.Route{Route: route.FailedRoute()}}.Key()] = true
		case errors.As(e, &part):
			keys[part.FailedKey()] = true
		case errors.As(e, &step):
			keys[step.key] = true
		default:
			keys[otherKey] = true
		}
	}
	return keys
}

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
// does not name all that failed, achieved returns the routes only.
func achieved(c plan.Changes, err error) plan.Changes {
	if err == nil {
		return c
	}
	failed := failedKeys(err)
	if failed[otherKey] {
		c = c.Only(plan.KindRoute)
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
		what += fmt.Sprintf(", and %d more", more)
	}
	return &stepError{verifyKey, fmt.Errorf("the kernel does not have what was written (%s); trying again", what)}
}

// blocks reports whether the error of a pass blocks readiness. The route to a peer does not, nor do the
// limits of the neighbor table, which few clusters reach, nor the nftables table without masquerading.
func blocks(err error, opts topology.Options) bool {
	return slices.ContainsFunc(flatten(err), func(e error) bool { return blocksOne(e, opts) })
}

func blocksOne(e error, opts topology.Options) bool {
	var route RouteFailure
	var part PartFailure
	switch {
	case errors.As(e, &route):
		return blocksAllRoutes(e)
	case !errors.As(e, &part):
		return true
	case part.FailedKey() == tableKey:
		return opts.Masquerade
	}
	key := part.FailedKey()
	return key.Kind != plan.KindSysctl || !topology.IsNeighSysctl(key.Name)
}
