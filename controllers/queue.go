package controllers

import (
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
)

// restingQueue makes the queue of passes. That of controller-runtime is for many
// requests and priorities, and wakes the process twice a second for two metrics, which
// on an agent at rest is half of all wakeups.
func restingQueue(name string, limiter workqueue.TypedRateLimiter[Pass]) workqueue.TypedRateLimitingInterface[Pass] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[Pass]{
		Name: name, Clock: restingClock{},
	})
}

// metricsEvery is how often a queue tells how long the request at hand has taken: as
// often as somebody may look (scrape_interval of Prometheus).
const metricsEvery = 10 * time.Second

// restingClock has no ticker that is faster than metricsEvery. Timers are as asked for.
type restingClock struct{ clock.RealClock }

// NewTicker is what a queue calls for its metrics.
func (c restingClock) NewTicker(d time.Duration) clock.Ticker {
	return c.RealClock.NewTicker(max(d, metricsEvery))
}
