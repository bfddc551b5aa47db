package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A suite is a package with its mutants, and the tests that should detect them.
type suite struct {
	*source
	folder   string // of temporary files
	mutants  []*mutant
	binaries []*binary
	tests    []*test
	broken   []string // tests that fail without any mutant

	budget time.Duration // for the tests of one mutant
	grace  time.Duration // beyond slower times the duration without a mutant
}

// A binary has the tests of one package: of the one with the mutants, or of another that uses it.
type binary struct {
	of        string // the package that has the mutants
	dir, file string
	args      []string // those that it accepts
}

// A test with how long it takes, and the mutants that it reaches.
type test struct {
	binary *binary
	name   string
	took   time.Duration
	hits   map[int]bool
}

func (t *test) key() string { return t.binary.dir + " " + t.name }

// newSuite compiles a package once, with all its mutants. A name as in ./pkg/a+./pkg/b is that of package
// a, with the tests of b beside its own.
func newSuite(ctx context.Context, name, folder string, args []string) (*suite, error) {
	pkgs := strings.Split(name, "+")
	src, err := load(ctx, pkgs[0])
	if err != nil {
		return nil, err
	}
	mutants, texts, err := src.compilable(src.mutants())
	if err != nil {
		return nil, err
	}
	overlay, err := src.overlay(texts, folder)
	if err != nil {
		return nil, err
	}
	s := &suite{source: src, folder: folder, mutants: mutants}
	for i, pkg := range pkgs {
		b := &binary{of: pkgs[0], dir: pkg, file: filepath.Join(folder, fmt.Sprintf("test%d", i))}
		build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-trimpath", "-overlay", overlay, "-o", b.file, pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compiling %s with mutants: %w\n%s", pkg, err, out)
		}
		if _, err := b.list(ctx, args); err == nil {
			b.args = args
		}
		s.binaries = append(s.binaries, b)
	}
	return s, nil
}

// An outcome of a run of tests.
type outcome int

const (
	passed outcome = iota
	failed
	timedOut
)

// run runs tests of the binary with the given environment.
func (b *binary) run(ctx context.Context, tests []*test, limit time.Duration, env string) (outcome, []byte, error) {
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = regexp.QuoteMeta(t.name)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := []string{"-test.run=^(" + strings.Join(names, "|") + ")$", "-test.failfast", "-test.timeout=0"}
	cmd := exec.CommandContext(ctx, b.file, append(args, b.args...)...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), env)
	// All that a test has started goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return timedOut, out.Bytes(), nil
	case ctx.Err() != nil:
		return 0, nil, ctx.Err()
	case errors.As(err, &exit):
		return failed, out.Bytes(), nil
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return 0, nil, fmt.Errorf("running tests: %w", err)
	}
	return passed, out.Bytes(), nil
}

// list returns the names of all tests.
func (b *binary) list(ctx context.Context, args []string) ([]string, error) {
	cmd := exec.CommandContext(ctx, b.file, append([]string{"-test.list=^(Test|Fuzz|Example)"}, args...)...)
	cmd.Dir = b.dir
	out, err := cmd.Output()
	return strings.Fields(string(out)), err
}

// slow is how long one test may take where nothing is wrong.
const slow = 5 * time.Minute

// measure runs each test by itself, without a mutant, and records the mutants that it reaches.
func (s *suite) measure(ctx context.Context, skip *regexp.Regexp, known *coverage, say func(string, ...any)) error {
	for _, b := range s.binaries {
		names, err := b.list(ctx, nil)
		if err != nil {
			return fmt.Errorf("listing tests of %s: %w", b.dir, err)
		}
		for _, name := range names {
			t := &test{binary: b, name: name}
			switch {
			case skip.MatchString(name):
				continue
			case known.has(t):
				s.tests = append(s.tests, t)
				continue
			}
			if err := s.measureOne(ctx, t, say); err != nil {
				return err
			}
		}
	}
	if err := known.write(s.tests); err != nil {
		return err
	}
	slices.SortStableFunc(s.tests, func(a, b *test) int { return cmp.Compare(a.took, b.took) })
	return nil
}

func (s *suite) measureOne(ctx context.Context, t *test, say func(string, ...any)) error {
	file := filepath.Join(s.folder, "hits")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	begin := time.Now()
	result, output, err := t.binary.run(ctx, []*test{t}, slow, "MUTATE_HITS="+file)
	if err != nil {
		return err
	}
	t.took = time.Since(begin)
	if result != passed {
		s.broken = append(s.broken, t.name)
		say("%s fails without any mutant, and is left out: %s", t.name, lastLines(output))
		return nil
	}
	s.tests = append(s.tests, t)
	return t.read(file)
}

func (t *test) read(file string) error {
	seen, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	t.hits = map[int]bool{}
	for id, hit := range seen {
		if hit != 0 {
			t.hits[id] = true
		}
	}
	return nil
}

func lastLines(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

// slower is how many times longer than without a mutant tests may take.
const slower = 5

// A fate is the outcome of a mutant.
type fate string

const (
	killed     fate = "killed"
	stuck      fate = "timed out"
	alive      fate = "alive"
	notCovered fate = "not covered"
)

// tryAll tries mutants, a few at once, and hands over the fate of each at once.
func (s *suite) tryAll(ctx context.Context, mutants []*mutant, jobs int, done func(*mutant, fate)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		mutant *mutant
		fate   fate
		err    error
	}
	todo, results := make(chan *mutant), make(chan result)
	for range jobs {
		go func() {
			for m := range todo {
				f, err := s.try(ctx, m)
				results <- result{m, f, err}
			}
		}()
	}
	go func() {
		defer close(todo)
		for _, m := range mutants {
			todo <- m
		}
	}()
	var failed error
	for range mutants {
		switch r := <-results; {
		case failed == nil && r.err == nil:
			done(r.mutant, r.fate)
		case failed == nil:
			failed = r.err
			cancel()
		}
	}
	return failed
}

// try runs the tests that reach a mutant, quick ones first, until one fails.
func (s *suite) try(ctx context.Context, m *mutant) (fate, error) {
	tests := slices.DeleteFunc(slices.Clone(s.tests), func(t *test) bool { return !t.hits[m.id] })
	if len(tests) == 0 {
		return notCovered, nil
	}
	for batch := range batches(within(tests, s.budget)) {
		for _, b := range s.binaries {
			if f, err := s.tryBatch(ctx, b, batch, m); f != alive || err != nil {
				return f, err
			}
		}
	}
	return alive, nil
}

// tryBatch runs those tests of a batch that a binary has.
func (s *suite) tryBatch(ctx context.Context, b *binary, batch []*test, m *mutant) (fate, error) {
	mine := slices.DeleteFunc(slices.Clone(batch), func(t *test) bool { return t.binary != b })
	if len(mine) == 0 {
		return alive, nil
	}
	var took time.Duration
	for _, t := range mine {
		took += t.took
	}
	result, _, err := b.run(ctx, mine, slower*took+s.grace, fmt.Sprintf("MUTATE_ON=%d", m.id))
	return map[outcome]fate{passed: alive, failed: killed, timedOut: stuck}[result], err
}

// within returns the quickest tests, at least one, that take no longer than a budget.
func within(tests []*test, budget time.Duration) []*test {
	n, sum := 0, time.Duration(0)
	for n < len(tests) && (n == 0 || sum+tests[n].took <= budget) {
		sum += tests[n].took
		n++
	}
	return tests[:n]
}

// batches cuts tests, which are sorted by how long they take, into runs each of which may take a few
// times as long as the one before.
func batches(tests []*test) func(func([]*test) bool) {
	return func(yield func([]*test) bool) {
		limit := time.Second / 2
		for len(tests) > 0 {
			batch := within(tests, limit)
			if !yield(batch) {
				return
			}
			tests, limit = tests[len(batch):], 4*limit
		}
	}
}
