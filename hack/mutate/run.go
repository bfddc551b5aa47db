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

// A suite is the test binary of one package with its mutants.
type suite struct {
	*source
	binary  string
	folder  string // of temporary files
	args    []string
	mutants []*mutant
	tests   []*test
	broken  []string // tests that fail without any mutant

	patience time.Duration // beyond slower times what tests take without a mutant
}

// A test with how long it takes, and which mutants it comes by.
type test struct {
	name string
	took time.Duration
	hits map[int]bool
}

// newSuite compiles the package once, with all its mutants.
func newSuite(ctx context.Context, pkg, folder string, args []string) (*suite, error) {
	src, err := load(pkg)
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
	s := &suite{source: src, binary: filepath.Join(folder, "test"), folder: folder, mutants: mutants}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-trimpath", "-overlay", overlay, "-o", s.binary, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling %s with its mutants: %w\n%s", pkg, err, out)
	}
	if _, err := s.list(ctx, args); err == nil {
		s.args = args
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

// run runs tests with the given environment.
func (s *suite) run(ctx context.Context, tests []*test, limit time.Duration, env string) (outcome, []byte, error) {
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = regexp.QuoteMeta(t.name)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := []string{"-test.run=^(" + strings.Join(names, "|") + ")$", "-test.failfast", "-test.timeout=0"}
	cmd := exec.CommandContext(ctx, s.binary, append(args, s.args...)...)
	cmd.Dir = s.dir
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
func (s *suite) list(ctx context.Context, args []string) ([]string, error) {
	cmd := exec.CommandContext(ctx, s.binary, append([]string{"-test.list=^(Test|Fuzz|Example)"}, args...)...)
	cmd.Dir = s.dir
	out, err := cmd.Output()
	return strings.Fields(string(out)), err
}

// slow is how long one test may take where nothing is wrong.
const slow = 5 * time.Minute

// measure runs each test by itself, without a mutant, and notes what it comes by.
func (s *suite) measure(ctx context.Context, only string, say func(string, ...any)) error {
	names, err := s.list(ctx, nil)
	if err != nil {
		return fmt.Errorf("listing tests: %w", err)
	}
	for _, name := range names {
		if matches, err := regexp.MatchString(only, name); err != nil || !matches {
			if err != nil {
				return err
			}
			continue
		}
		t := &test{name: name}
		file := filepath.Join(s.folder, "hits")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return err
		}
		begin := time.Now()
		result, said, err := s.run(ctx, []*test{t}, slow, "MUTATE_HITS="+file)
		if err != nil {
			return err
		}
		if t.took = time.Since(begin); result != passed {
			s.broken = append(s.broken, name)
			say("%s fails without any mutant, and is left out: %s", name, lastLines(said))
			continue
		}
		if err := t.read(file); err != nil {
			return err
		}
		s.tests = append(s.tests, t)
	}
	slices.SortStableFunc(s.tests, func(a, b *test) int { return cmp.Compare(a.took, b.took) })
	return nil
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
const slower = 10

// A fate is what became of a mutant.
type fate string

const (
	killed     fate = "killed"
	stuck      fate = "timed out"
	alive      fate = "alive"
	notCovered fate = "not covered"
)

// try runs the tests that come by a mutant, quick ones first, until one fails.
func (s *suite) try(ctx context.Context, m *mutant) (fate, error) {
	tests := slices.DeleteFunc(slices.Clone(s.tests), func(t *test) bool { return !t.hits[m.id] })
	if len(tests) == 0 {
		return notCovered, nil
	}
	for batch := range batches(tests) {
		var took time.Duration
		for _, t := range batch {
			took += t.took
		}
		result, _, err := s.run(ctx, batch, slower*took+s.patience, fmt.Sprintf("MUTATE_ON=%d", m.id))
		switch {
		case err != nil:
			return "", err
		case result == failed:
			return killed, nil
		case result == timedOut:
			return stuck, nil
		}
	}
	return alive, nil
}

// batches cuts tests, which are sorted by how long they take, into runs each of which may take a few
// times as long as the one before.
func batches(tests []*test) func(func([]*test) bool) {
	return func(yield func([]*test) bool) {
		limit := time.Second / 2
		for len(tests) > 0 {
			n, sum := 0, time.Duration(0)
			for n < len(tests) && (n == 0 || sum+tests[n].took <= limit) {
				sum += tests[n].took
				n++
			}
			if !yield(tests[:n]) {
				return
			}
			tests, limit = tests[n:], 4*limit
		}
	}
}
