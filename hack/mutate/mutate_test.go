package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A package with tests that see some of its mutants gives each its fate, and few of them are alive.
func TestFates(t *testing.T) {
	t.Chdir("testdata/example")
	var out bytes.Buffer
	r := &report{known: &knownList{reasons: map[string]string{}, found: map[string]bool{}}, out: &out}
	if err := (options{sample: 1, jobs: 2, grace: 10 * time.Second, budget: time.Hour, skip: "^$"}).mutate(t.Context(), ".", r); err != nil {
		t.Fatal(err)
	}
	r.finish()
	fates := map[string]fate{}
	for _, result := range r.results {
		fates[strings.TrimPrefix(result.Key, "./example.go ")] = result.Fate
	}
	for key, want := range map[string]fate{
		"Sum: negate: x < 0":            killed,
		"Sum: boundary: x < 0":          killed,
		"Sum: boundary: x > limit":      alive,
		"Sum: remove: continue":         killed,
		"Sum: remove: sum += x":         killed,
		"Sum: return: errNegative":      killed,
		"Sum: return: sum":              killed,
		"Wait: remove: i++":             stuck,
		"Unseen: logic: a && b":         notCovered,
		"Unseen: negate: a":             notCovered,
		"Shift: remove: b |= 1<<by - 1": killed,
	} {
		if fates[key] != want {
			t.Errorf("%s: %q, want %q", key, fates[key], want)
		}
	}
	for _, want := range []string{"alive: ./example.go:15 Sum: boundary\n\t- x > limit\n\t+ x >= limit\n", "more than one mutant in 20 is alive"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
	if r.good() {
		t.Error("that is good enough")
	}
}

// Coverage is kept for as long as the code stays.
func TestCoverageIsKept(t *testing.T) {
	t.Chdir("testdata/example")
	file := filepath.Join(t.TempDir(), "coverage.json")
	uncovered := func() int {
		t.Helper()
		r := &report{known: &knownList{reasons: map[string]string{}, found: map[string]bool{}}, out: io.Discard}
		o := options{sample: 1, jobs: 2, grace: time.Minute, budget: time.Hour, match: "Sum: return", skip: "TestWait", coverage: file}
		if err := o.mutate(t.Context(), ".", r); err != nil {
			t.Fatal(err)
		}
		return r.tallies[0].fates[notCovered]
	}
	rewrite := func(change func(c *coverages)) {
		t.Helper()
		all := map[string]coverages{}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &all); err != nil || len(all["."].Tests) == 0 {
			t.Fatalf("kept: %s (%v)", b, err)
		}
		c := all["."]
		change(&c)
		all["."] = c
		if b, err = json.Marshal(all); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := uncovered(); got != 0 {
		t.Errorf("measured, %d are not covered", got)
	}
	if got := uncovered(); got != 0 {
		t.Errorf("remembered, %d are not covered", got)
	}
	rewrite(func(c *coverages) {
		for name := range c.Tests {
			c.Tests[name] = testCoverage{}
		}
	})
	if got := uncovered(); got != 2 {
		t.Errorf("with a file by which tests reach nothing, %d are not covered", got)
	}
	rewrite(func(c *coverages) { c.Code = "other" })
	if got := uncovered(); got != 0 {
		t.Errorf("after a change of the code, %d are not covered", got)
	}
}

// The tests of another package can look as well.
func TestFatesByTestsOfAnother(t *testing.T) {
	t.Chdir("testdata/example")
	r := &report{known: &knownList{reasons: map[string]string{}, found: map[string]bool{}}, out: io.Discard}
	if err := (options{sample: 1, jobs: 2, grace: time.Minute, budget: time.Hour, match: "Unseen", skip: "TestWait"}).mutate(t.Context(), ".+./other", r); err != nil {
		t.Fatal(err)
	}
	if len(r.results) != 3 || r.tallies[0].fates[killed] != 3 || r.tallies[0].tests != 3 || !r.good() {
		t.Errorf("%+v of %d tests", r.results, r.tallies[0].tests)
	}
}

// An interruption ends it at once, with nothing left.
func TestInterruption(t *testing.T) {
	t.Chdir("testdata/example")
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	ctx, cancel := context.WithCancel(t.Context())
	r := &report{known: &knownList{reasons: map[string]string{}, found: map[string]bool{}}, out: interrupting{cancel}}
	if err := (options{sample: 1, jobs: 2, match: "Wait", budget: time.Hour, skip: "^$"}).mutate(ctx, ".", r); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if left, err := filepath.Glob(temp + "/mutate-*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v (%v)", left, err)
	}
}

// interrupting cancels once mutants are tried.
type interrupting struct{ cancel func() }

func (i interrupting) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("; trying ")) {
		i.cancel()
	}
	return len(b), nil
}

// Each operator mutates its constructions, and leaves alone what no test or only the race detector
// could see.
func TestOperators(t *testing.T) {
	const code = `package p

import "sync"

type point struct{ x, y int; known bool }

func f(mu *sync.Mutex, a, b int, all []point, ok bool) (point, error) {
	mu.Lock()
	defer mu.Unlock()
	if ok && a <= b || !ok {
		a = a*2 + b
	}
	switch {
	case a == 3:
		all = append(all, point{x: a, known: true})
	}
	for i := 0; i < 3; i++ {
		_ = i
	}
	return point{}, nil
}
`
	t.Chdir("testdata/example") // whose imports it has
	s, err := load(t.Context(), ".")
	if err != nil {
		t.Fatal(err)
	}
	s.name, s.fset, s.files = "p", token.NewFileSet(), nil
	if err := s.add("p.go", []byte(code)); err != nil {
		t.Fatal(err)
	}
	if errs := s.check(); len(errs) > 0 {
		t.Fatal(errs)
	}
	var got []string
	for _, m := range s.mutants() {
		got = append(got, fmt.Sprintf("%s: %s -> %s", m.operator, m.before, m.after))
	}
	slices.Sort(got)
	want := []string{
		"argument: point{x: a, known: true} -> zero value",
		"arithmetic: a * 2 -> a + 2", "arithmetic: a*2 + b -> a * 2 - b",
		"boundary: a <= b -> a < b", "boundary: i < 3 -> i <= 3",
		"field: a -> zero value", "flip: true -> false",
		"logic: ok && a <= b -> ok || a <= b", "logic: ok && a <= b || !ok -> ok && a <= b && !ok",
		"negate: a <= b -> a > b", "negate: a == 3 -> a != 3", "negate: i < 3 -> i >= 3", "negate: ok -> !ok", "negate: ok -> !ok",
		"remove: a = a*2 + b -> ", "remove: all = append(all, point{x: a, known: true}) -> ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	woven, texts, err := s.compilable(s.mutants())
	if err != nil || len(woven) != len(want) || !strings.Contains(texts["p.go"], "mutZero__") {
		t.Errorf("%d mutants compile (%v):\n%s", len(woven), err, texts["p.go"])
	}
}

func TestKnownList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "alive.txt")
	read := func(text string) (*knownList, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return readKnown(file)
	}
	list, err := read("# It is quicker,\n# and nothing else.\npkg/a/a.go F: remove: x\npkg/a/a.go F: remove: y\n\n# Another reason.\npkg/b/b.go G: logic: z\n")
	if err != nil || list.reasons["pkg/a/a.go F: remove: y"] != "It is quicker, and nothing else." || list.reasons["pkg/b/b.go G: logic: z"] != "Another reason." {
		t.Errorf("%v: read as %v", err, list)
	}
	list.found["pkg/a/a.go F: remove: x"] = true
	r := &report{known: list, tallies: []*tally{{dir: "pkg/a"}}}
	if got := r.stale(); !slices.Equal(got, []string{"pkg/a/a.go F: remove: y"}) || r.good() {
		t.Errorf("gone are %v", got)
	}
	for _, wrong := range []string{"pkg/a/a.go F: remove: x\n", "# Why.\nx\nx\n", "# Why.\n\nx\n"} {
		if _, err := read(wrong); err == nil {
			t.Errorf("no error of %q", wrong)
		}
	}
}

// A sample is the same each time, about as large as it should be, and part of a larger one with another seed.
func TestSample(t *testing.T) {
	o, chosen := options{sample: 10, seed: 1}, 0
	all, other := regexp.MustCompile(""), regexp.MustCompile("pkg/b")
	for i := range 10000 {
		key := fmt.Sprintf("pkg/a/a.go F: remove: %d", i)
		if o.chooses(key, all) {
			chosen++
		}
		if again := o; again.chooses(key, all) != o.chooses(key, all) || !(options{sample: 1}).chooses(key, all) || (options{sample: 1}).chooses(key, other) {
			t.Fatalf("%s is chosen otherwise", key)
		}
	}
	if chosen < 800 || chosen > 1200 {
		t.Errorf("%d of 10000 are chosen", chosen)
	}
}
