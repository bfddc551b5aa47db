// Package idle lets an agent sleep while it has nothing to do: it has a queue with few timers, waits
// and signals, and collects garbage between passes.
package idle

import (
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
)

// NewQueue returns a work queue that wakes the process only for its requests and, every
// metricsInterval, for its metrics. The queue of controller-runtime wakes it twice a second for
// two metrics, which is half of all wakeups of an idle agent.
func NewQueue[T comparable](name string, limiter workqueue.TypedRateLimiter[T]) workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[T]{
		Name: name, Clock: slowTicker{},
	})
}

// metricsInterval is how often a queue updates the duration of the running request: as often
// as Prometheus scrapes (scrape_interval).
const metricsInterval = 10 * time.Second

// slowTicker is a clock whose tickers tick every metricsInterval at most.
type slowTicker struct{ clock.RealClock }

// NewTicker is what a queue calls for its metrics.
func (c slowTicker) NewTicker(d time.Duration) clock.Ticker {
	return c.RealClock.NewTicker(max(d, metricsInterval))
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
