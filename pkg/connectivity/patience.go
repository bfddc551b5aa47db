package connectivity

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Patience is how long an API server may fail before it counts as away: one that starts
// again, or hands over to another, takes less.
const Patience = 30 * time.Second

const (
	// interval is how often the API server is asked for what is waited for.
	interval = 200 * time.Millisecond
	// oneAnswer is longer than an API server takes that answers at all.
	oneAnswer = 10 * time.Second
)

// outage is an API server that failed for longer than it may, or that still failed when
// the time was over.
type outage struct {
	last error
	past time.Duration
}

func (o *outage) Error() string {
	return fmt.Sprintf("the API server has failed for %s: %v", o.past.Round(time.Second/10), o.last)
}

func (o *outage) Unwrap() error { return o.last }

// poll asks the API server until it is done, and bears failures for as long as the
// patience: also refusals, which an API server that starts makes before it knows the roles.
func poll(ctx context.Context, patience time.Duration, ask func(context.Context) (done bool, err error)) error {
	var since time.Time // of the first failure of those that came one after the other
	var last error
	err := wait.PollUntilContextCancel(ctx, interval, true, func(ctx context.Context) (bool, error) {
		asked := time.Now()
		limited, cancel := context.WithTimeout(ctx, oneAnswer)
		defer cancel()
		done, err := ask(limited)
		switch {
		case err == nil:
			last = nil
			return done, nil
		case ctx.Err() != nil: // nobody waits for the answer any more
			return false, ctx.Err()
		case last == nil:
			since = asked
		}
		if last = err; time.Since(since) < patience {
			return false, nil
		}
		return false, err
	})
	if last != nil && !errors.Is(ctx.Err(), context.Canceled) {
		return &outage{last, time.Since(since)}
	}
	return err
}

// insist calls until it succeeds.
func insist(ctx context.Context, patience time.Duration, call func(context.Context) error) error {
	return poll(ctx, patience, func(ctx context.Context) (bool, error) {
		err := call(ctx)
		return err == nil, err
	})
}

// create calls until something is made. An answer that says no is final; where one was
// lost, the thing may be there.
func (r *Run) create(ctx context.Context, call func(context.Context) error) error {
	var refused error
	lost := false
	err := insist(ctx, r.Patience, func(ctx context.Context) error {
		err := call(ctx)
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
	if refused != nil {
		return refused
	}
	return err
}
