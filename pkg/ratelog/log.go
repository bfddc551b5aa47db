// Package ratelog limits how many log lines are written about one thing.
package ratelog

import (
	"slices"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
)

// Each key gets Burst lines at once, and then one every Interval: a kubelet may write its Node
// as often as it likes.
const (
	Burst    = 10
	Interval = time.Minute
)

// A Log writes log lines, limited by key. Of the lines of a key that exceed the limit, the last
// one is written once the limit allows, with the number of those that were dropped.
type Log struct {
	now     func() time.Time
	entries map[Key]*entry
}

// Key identifies what a line is about.
type Key struct{ Kind, Name string }

// entry is the last line of a key, and the key's limit.
type entry struct {
	limit   *rate.Limiter
	pending int // lines since the last one that was written
	message string
	values  []any
}

// New returns a Log with the clock now.
func New(now func() time.Time) *Log {
	return &Log{now: now, entries: map[Key]*entry{}}
}

// Info writes a line, or keeps it for Flush.
func (l *Log) Info(logger logr.Logger, key Key, message string, values ...any) {
	e, ok := l.entries[key]
	if !ok {
		e = &entry{limit: rate.NewLimiter(rate.Every(Interval), Burst)}
		l.entries[key] = e
	}
	e.message, e.values = message, values
	e.pending++
	e.write(logger, l.now())
}

// write writes the last line if it is pending and the limit allows it.
func (e *entry) write(logger logr.Logger, now time.Time) {
	if e.pending == 0 || !e.limit.AllowN(now, 1) {
		return
	}
	if e.pending > 1 {
		e.values = append(slices.Clone(e.values), "linesLeftOut", e.pending-1)
	}
	logger.Info(e.message, e.values...)
	e.pending, e.values = 0, nil
}

// Flush writes the pending lines that the limit allows now, and forgets the keys whose limit is
// unused.
func (l *Log) Flush(logger logr.Logger) {
	now := l.now()
	for key, e := range l.entries {
		e.write(logger, now)
		if e.limit.TokensAt(now) >= Burst {
			delete(l.entries, key)
		}
	}
}

// Wait returns when to call Flush, 0: no line is pending.
func (l *Log) Wait() time.Duration {
	for _, e := range l.entries {
		if e.pending > 0 {
			return Interval
		}
	}
	return 0
}
