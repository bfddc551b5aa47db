package testutil

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// Pause waits for d. It returns ctx's error if ctx ends first.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Poll calls try, every so often, until it returns nil. If ctx ends first, Poll returns the error of ctx together with
// the last error of try. An error of try that only repeats the end of ctx doesn't hide the one before it.
func Poll(ctx context.Context, every time.Duration, try func() error) error {
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if err := Pause(ctx, every); err != nil {
			return fmt.Errorf("%w: %w", err, last)
		}
	}
}

// Interval is how often Await and AwaitTrue try.
const Interval = time.Millisecond

// Await calls try until it returns nil. It fails the test with the last error after Limit.
func Await(t testing.TB, try func() error) {
	t.Helper()
	AwaitWithin(t, Limit, Interval, try)
}

// AwaitTrue is Await for a condition. what describes the condition in the test's failure.
func AwaitTrue(t testing.TB, what string, condition func() bool) {
	t.Helper()
	errNotYet := errors.New(what)
	Await(t, func() error {
		if condition() {
			return nil
		}
		return errNotYet
	})
}

// AwaitWithin is Await with another limit, and another time between two calls.
func AwaitWithin(t testing.TB, limit, every time.Duration, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
	defer cancel()
	if err := Poll(ctx, every, try); err != nil {
		t.Fatalf("not so after %s: %v", limit, err)
	}
}
