package ratelog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

// A key gets Burst lines at once and one every Interval, the last one with the number of those that were dropped. Unused keys
// are forgotten.
func TestLog(t *testing.T) {
	now := time.Unix(1e9, 0)
	var written bytes.Buffer
	l, logger := New(func() time.Time { return now }), logr.FromSlogHandler(slog.NewTextHandler(&written, nil))
	key := Key{"route", "10.244.2.0/24"}
	for i := range Burst + 3 {
		l.Info(logger, key, "Replaced route", "number", i)
	}
	l.Info(logger, Key{"route", "10.244.3.0/24"}, "Added route")
	if n := strings.Count(written.String(), "Replaced"); n != Burst || l.Wait() != Interval || !strings.Contains(written.String(), "Added") {
		t.Errorf("%d lines at once, then a wait of %s: %s", n, l.Wait(), &written)
	}
	now = now.Add(Interval)
	written.Reset()
	l.Flush(logger)
	if got := written.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "number=12 linesLeftOut=2") || l.Wait() != 0 {
		t.Errorf("after a minute, with another wait of %s: %s", l.Wait(), got)
	}
	now = now.Add(Burst * Interval)
	if l.Flush(logger); len(l.entries) != 0 {
		t.Errorf("%d keys are never forgotten", len(l.entries))
	}
}
