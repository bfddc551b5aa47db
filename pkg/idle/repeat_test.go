package idle

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Repeat calls at once, after news, and after the wait that the last call returned. News that come
// during a call are not lost, and many of them are one call.
func TestRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begin, news := time.Now(), make(chan struct{}, 1)
		waits := []time.Duration{0, time.Minute, time.Hour, time.Hour, 0}
		var calls []time.Duration
		ended := make(chan struct{})
		go func() {
			Repeat(ctx, news, func(context.Context) time.Duration {
				calls = append(calls, time.Since(begin))
				if len(calls) == 3 {
					Signal(news)
					Signal(news)
					time.Sleep(time.Second)
				}
				return waits[len(calls)-1]
			})
			close(ended)
		}()
		time.Sleep(time.Second)
		Signal(news)
		time.Sleep(24 * time.Hour)
		cancel()
		<-ended
		second, minute := time.Second, time.Minute
		if want := []time.Duration{0, second, second + minute, 2*second + minute, 2*second + minute + time.Hour}; !slices.Equal(calls, want) {
			t.Errorf("calls after %s, want %s", calls, want)
		}
	})
}

// Soonest returns the shortest wait, and leaves out those that are 0.
func TestSoonest(t *testing.T) {
	for _, c := range []struct {
		waits []time.Duration
		want  time.Duration
	}{{nil, 0}, {[]time.Duration{0, 0}, 0}, {[]time.Duration{0, 3, 2, 4, 0}, 2}} {
		if got := Soonest(c.waits...); got != c.want {
			t.Errorf("of %v: %v, want %v", c.waits, got, c.want)
		}
	}
}
