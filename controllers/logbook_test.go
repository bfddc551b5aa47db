package controllers

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
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

// into returns a context whose logger writes to the book.
func (b *logBook) into(ctx context.Context) context.Context {
	return logr.NewContext(ctx, logr.FromSlogHandler(slog.NewTextHandler(b, nil)))
}
