package controllers

import (
	"errors"
	"time"

	"k8s.io/client-go/util/workqueue"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Kinds of failures that are not about one thing of plan's. Each is retried as one thing.
const (
	kindHost   plan.Kind = "this host"          // it can't be read
	kindVerify plan.Kind = "what was written"   // the kernel does not hold it
	kindOther  plan.Kind = "a change to a host" // an error that names nothing
)

// retries has a backoff for each thing that fails, from firstRetry to lastRetry, so that a route which
// the kernel refuses for ever delays nothing else. It remembers no more than what fails.
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

// after notes what has failed in a pass, and returns when the first of that is to be tried again, 0: there
// is none. In a pass that tried everything, what has not failed is well, or not wanted any more.
func (r *retries) after(failed map[plan.Key]bool, triedAll bool) time.Duration {
	wait := time.Duration(0)
	for k := range failed {
		wait = soonest(wait, r.backoff.When(k))
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

// lookError is an error of reading this host, before anything is tried.
type lookError struct{ err error }

func (e *lookError) Error() string { return e.err.Error() }
func (e *lookError) Unwrap() error { return e.err }

// verifyError says that the kernel does not hold what it took without an error.
type verifyError struct{ err error }

func (e *verifyError) Error() string { return e.err.Error() }

// failedKeys returns the things that the error of a pass is about.
func failedKeys(err error) map[plan.Key]bool {
	keys := map[plan.Key]bool{}
	var routes []topology.Route
	for _, e := range flatten(err) {
		var route RouteFailure
		var part PartFailure
		switch {
		case errors.As(e, &route):
			routes = append(routes, route.FailedRoute())
		case errors.As(e, &part):
			keys[part.FailedKey()] = true
		case errors.As(e, new(*cniError)):
			keys[plan.Key{Kind: plan.KindCNI, Name: topology.Conflist}] = true
		case errors.As(e, new(*lookError)):
			keys[plan.Key{Kind: kindHost}] = true
		case errors.As(e, new(*verifyError)):
			keys[plan.Key{Kind: kindVerify}] = true
		default:
			keys[plan.Key{Kind: kindOther}] = true
		}
	}
	for _, k := range (plan.Changes{Add: routes}).Keys() {
		keys[k] = true
	}
	return keys
}
