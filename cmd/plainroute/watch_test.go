package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
)

// An API server that restarts does not end a watch, but an error of the first query does.
func TestWatchGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		for _, c := range []struct {
			name    string
			looks   []error
			want    error
			printed int
		}{
			{"fails at once", []error{away}, away, 0},
			{"fails meanwhile", []error{nil, away, away, nil}, nil, 2},
			{"finds problems in the end", []error{nil, away, errShown}, errShown, 1},
			{"fails in the end", []error{errShown, away}, away, 1},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			var out, printed bytes.Buffer
			cmd := &cobra.Command{}
			cmd.SetContext(ctx)
			cmd.SetOut(&out)
			cmd.SetErr(&printed)
			looks := 0
			err := watch(cmd, time.Second, false, func(*cobra.Command) error {
				looks++
				if looks == len(c.looks) {
					time.AfterFunc(time.Second/2, cancel)
				}
				return c.looks[looks-1]
			})
			cancel()
			if !errors.Is(err, c.want) || looks != len(c.looks) || strings.Count(printed.String(), "connection refused\n") != c.printed {
				t.Errorf("%s: %v after %d looks, printed: %q", c.name, err, looks, printed.String())
			}
		}
	})
}

// A page must fit into the terminal, because one that scrolls can't be rewritten in place.
func TestPageFits(t *testing.T) {
	for _, c := range []struct {
		name, page    string
		width, height int
		want          []string
	}{
		{"room enough", "one\ntwo\n", 80, 24, []string{"one", "two"}},
		{"just enough", "one\ntwo\n", 3, 3, []string{"one", "two"}},
		{"too many lines", "one\ntwo\nthree\n", 80, 3, []string{"one", "... and 2 more lines (--problems shows only problems)"}},
		{"one line", "one\ntwo\n", 10, 1, []string{"... and 2 "}},
		{"words", "  -> ask who did it\n\x1b[33m  über dich und mich\x1b[0m\n", 12, 24, []string{"  -> ask who", "    did it", "\x1b[33m  über dich", "    und mich\x1b[0m"}},
		{"a word too long", "  -> abcdefghijklm no\n", 10, 24, []string{"  ->", "    abcdef", "    no"}},
		{"long lines", "äöüß\n\x1b[31mred and long\x1b[0m\n", 3, 24, []string{"äöü", "\x1b[31mred\x1b[0m"}},
	} {
		if got := fit(c.page, c.width, c.height); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
