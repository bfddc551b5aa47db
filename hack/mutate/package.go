package main

import (
	"context"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sayEvery is how long nothing may be printed.
const sayEvery = 10 * time.Second

// mutate tries the mutants of one package.
func (o options) mutate(ctx context.Context, pkg string, r *report) error {
	skip, err := regexp.Compile(o.skip)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	match, err := regexp.Compile(o.match)
	if err != nil {
		return err
	}
	begin := time.Now()
	t := &tally{dir: directory(pkg), fates: map[fate]int{}}
	r.tallies = append(r.tallies, t)
	r.say("%s: compiling it with its mutants", t.dir)
	s, err := newSuite(ctx, pkg, folder, strings.Fields(o.args))
	if err != nil {
		return err
	}
	s.grace, s.budget = o.grace, o.budget
	t.made = len(s.mutants)
	for _, m := range s.mutants {
		r.known.found[m.key(t.dir)] = true
	}
	r.say("%s: %d mutants, compiled in %s; running each test", t.dir, t.made, time.Since(begin).Round(time.Second))
	if err := s.measure(ctx, skip, newCoverage(o.coverage, s), r.say); err != nil {
		return err
	}
	t.tests, t.broken, t.measure = len(s.tests), len(s.broken), time.Since(begin)
	chosen := slices.DeleteFunc(slices.Clone(s.mutants), func(m *mutant) bool { return !o.chooses(m.key(t.dir), match) })
	r.say("%s: %d tests after %s; trying %d mutants", t.dir, t.tests, t.measure.Round(time.Second), len(chosen))
	last := time.Now()
	return s.tryAll(ctx, chosen, o.jobs, func(m *mutant, f fate) {
		r.add(t, m, f)
		t.all = time.Since(begin)
		if time.Since(last) > sayEvery {
			last = time.Now()
			r.say("%s: %d of %d tried after %s", t.dir, t.tried, len(chosen), t.all.Round(time.Second))
		}
	})
}

// directory returns the folder of the package that has the mutants.
func directory(name string) string {
	pkg, _, _ := strings.Cut(name, "+")
	return filepath.ToSlash(filepath.Clean(pkg))
}

// chooses reports whether a mutant is of the sample: its key decides, so that a change of the code
// leaves the others of the sample what they are.
func (o options) chooses(key string, match *regexp.Regexp) bool {
	hash := fnv.New64a()
	hash.Write([]byte(strconv.FormatUint(o.seed, 10) + " " + key))
	return hash.Sum64()%uint64(o.sample) == 0 && match.MatchString(key)
}
