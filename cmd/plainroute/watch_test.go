package main

import (
	"slices"
	"testing"
)

// What is more than a terminal holds would scroll, and rewriting it in place be a mess.
func TestPageFits(t *testing.T) {
	for _, c := range []struct {
		name, page    string
		width, height int
		want          []string
	}{
		{"room enough", "one\ntwo\n", 80, 24, []string{"one", "two"}},
		{"just enough", "one\ntwo\n", 3, 3, []string{"one", "two"}},
		{"too many lines", "one\ntwo\nthree\n", 80, 3, []string{"one", "... 2 lines more (--problems leaves out what is well)"}},
		{"one line", "one\ntwo\n", 10, 1, []string{"... 2 line"}},
		{"long lines", "äöüß\n\x1b[31mred and long\x1b[0m\n", 3, 24, []string{"äöü", "\x1b[31mred\x1b[0m"}},
	} {
		if got := fit(c.page, c.width, c.height); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
