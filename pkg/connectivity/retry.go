package connectivity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// RetryBudget is how long requests to the API server may fail: more than a restart takes.
const RetryBudget = 30 * time.Second

const (
	pollInterval   = 200 * time.Millisecond
	requestTimeout = 10 * time.Second // longer than a working API server takes
)

// outageError is returned when requests failed for longer than the budget, or until the end.
type outageError struct {
	last     error
	duration time.Duration
}

func (o *outageError) Error() string {
	return fmt.Sprintf("the API server has failed for %s: %v", o.duration.Round(time.Second/10), o.last)
}

func (o *outageError) Unwrap() error { return o.last }

// poll calls a function until it is done, and tolerates errors for as long as the budget. That
// includes refusals, because a starting API server returns them until it has loaded the roles.
func poll(ctx context.Context, budget time.Duration, call func(context.Context) (done bool, err error)) error {
	var since time.Time // begin of the first of consecutive failures
	var last error
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		begin := time.Now()
		limited, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		done, err := call(limited)
		switch {
		case err == nil:
			last = nil
			return done, nil
		case ctx.Err() != nil:
			return false, ctx.Err()
		case last == nil:
			since = begin
		}
		if last = err; time.Since(since) < budget {
			return false, nil
		}
		return false, err
	})
	if last != nil && !errors.Is(ctx.Err(), context.Canceled) {
		return &outageError{last, time.Since(since)}
	}
	return err
}

// retry calls a function until it succeeds.
func retry(ctx context.Context, budget time.Duration, call func(context.Context) error) error {
	return poll(ctx, budget, func(ctx context.Context) (bool, error) {
		err := call(ctx)
		return err == nil, err
	})
}

// create calls a function until it has created an object. A refusal is final. If a response was lost,
// an object that exists already counts as created.
func create[T any](ctx context.Context, budget time.Duration, call func(context.Context, T, metav1.CreateOptions) (T, error), object T) error {
	var refused error
	lost := false
	err := retry(ctx, budget, func(ctx context.Context) error {
		_, err := call(ctx, object, metav1.CreateOptions{})
		switch {
		case lost && apierrors.IsAlreadyExists(err):
			return nil
		case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsUnauthorized(err):
			refused = err
			return nil
		}
		lost = lost || err != nil
		return err
	})
	return cmp.Or(refused, err)
}
