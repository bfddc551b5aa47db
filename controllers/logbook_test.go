package controllers

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// logBook keeps what was logged, a line each.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

// Write takes a line of slog's TextHandler.
func (b *logBook) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, string(bytes.TrimSuffix(line, []byte("\n"))))
	return len(line), nil
}

// with returns the lines that hold all of the words.
func (b *logBook) with(words ...string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []string
	for _, line := range b.lines {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}

// book is the one that is being written.
var book atomic.Pointer[logBook]

// currentBook writes the log of all libraries to book, because their loggers can't be changed while
// they run.
type currentBook struct{ slog.Handler }

func (h currentBook) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h currentBook) Handle(ctx context.Context, r slog.Record) error {
	b := book.Load()
	if b == nil {
		return nil
	}
	return slog.NewTextHandler(b, nil).Handle(ctx, r)
}

// WithAttrs drops the values that controller-runtime adds to each line.
func (h currentBook) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h currentBook) WithGroup(string) slog.Handler { return h }
