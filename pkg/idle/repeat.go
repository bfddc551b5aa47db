// Package idle lets an agent sleep while it has nothing to do: it has waits and signals, and collects
// garbage between passes.
package idle

import (
	"context"
	"time"
)

// Repeat calls f at once, whenever there is news, and after the wait that f returned, 0: none. It
// returns when ctx ends. Between the calls no timer but that wait runs: a work queue of client-go
// wakes an idle process twice a second for its metrics.
func Repeat(ctx context.Context, news <-chan struct{}, f func(context.Context) time.Duration) {
	for {
		var again <-chan time.Time
		if wait := f(ctx); wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-news:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// Signal sends to a channel with a buffer of one, unless it is full.
func Signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Soonest returns the shortest wait that is not 0, or 0.
func Soonest(waits ...time.Duration) time.Duration {
	least := time.Duration(0)
	for _, w := range waits {
		if w > 0 && (least == 0 || w < least) {
			least = w
		}
	}
	return least
}
