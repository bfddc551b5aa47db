package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is what go test -json prints, see go doc test2json and go help buildjson.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

// test names a test, or with an empty name its package as a whole.
type test struct{ pkg, name string }

// String leaves out the host and owner in a package's path, which all have in common.
func (t test) String() string { return strings.TrimSuffix(short(t.pkg)+"."+t.name, ".") }

func short(pkg string) string {
	if parts := strings.SplitN(pkg, "/", 4); len(parts) == 4 {
		return parts[3]
	}
	return pkg
}

type count struct{ passed, failed, skipped int }

func (c count) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}

// summary counts the tests, subtests included, as their events come in.
type summary struct {
	out     io.Writer
	now     func() time.Time
	start   time.Time
	printed time.Time

	running  map[test]time.Time
	output   map[test][]string // of tests whose result is not known yet
	packages map[string]*count
	total    count
	skips    map[string][]test // by reason
}

func newSummary(out io.Writer, now func() time.Time) *summary {
	return &summary{
		out: out, now: now, start: now(), printed: now(),
		running:  map[test]time.Time{},
		output:   map[test][]string{},
		packages: map[string]*count{},
		skips:    map[string][]test{},
	}
}

func (s *summary) print(text string) {
	s.printed = s.now()
	fmt.Fprintln(s.out, strings.TrimSuffix(text, "\n"))
}

func (s *summary) add(e event) {
	id := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		s.print(e.Output)
	case "start", "run":
		s.running[id] = s.now()
	case "output":
		s.output[id] = append(s.output[id], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(id, e)
		} else {
			s.endTest(id, e)
		}
		delete(s.running, id)
		delete(s.output, id)
	}
}

func (s *summary) counts(pkg string) *count {
	if s.packages[pkg] == nil {
		s.packages[pkg] = &count{}
	}
	return s.packages[pkg]
}

func (s *summary) endTest(id test, e event) {
	c := s.counts(id.pkg)
	switch e.Action {
	case "pass":
		c.passed++
	case "skip":
		c.skipped++
		why := reason(s.output[id])
		s.skips[why] = append(s.skips[why], id)
	case "fail":
		c.failed++
		s.print(fmt.Sprintf("FAIL %s", id))
		s.print(strings.Join(s.output[id], ""))
	}
}

// endPackage prints a package's line. A package can fail without a test of it failing: it doesn't compile, its TestMain
// gives up, a test panics or takes too long; that counts as a failed test.
func (s *summary) endPackage(id test, e event) {
	c := s.counts(id.pkg)
	if e.Action == "fail" && c.failed == 0 {
		c.failed++
		s.print(fmt.Sprintf("FAIL %s, outside of its tests", id))
		s.print(s.unfinished(id.pkg))
	}
	s.total.passed += c.passed
	s.total.failed += c.failed
	s.total.skipped += c.skipped
	if *c == (count{}) {
		return
	}
	verdict := "ok  "
	if c.failed > 0 {
		verdict = "FAIL"
	}
	s.print(fmt.Sprintf("%s %-24s %6.1f s   %s", verdict, short(id.pkg), e.Elapsed, c))
}

// unfinished returns what a package, and those tests of it that never ended, had to say.
func (s *summary) unfinished(pkg string) string {
	var all []string
	for _, id := range sortedTests(s.output) {
		if id.pkg == pkg {
			all = append(all, s.output[id]...)
		}
	}
	return strings.Join(all, "")
}

func sortedTests[V any](m map[test]V) []test {
	var ids []test
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b test) int {
		return cmp.Or(strings.Compare(a.pkg, b.pkg), strings.Compare(a.name, b.name))
	})
	return ids
}

// remind says what is being waited for, if nothing was printed for a while.
func (s *summary) remind() {
	if s.now().Sub(s.printed) < patience {
		return
	}
	var waiting []string
	for _, id := range sortedTests(s.running) {
		if id.name != "" {
			waiting = append(waiting, fmt.Sprintf("%s (%.0f s)", id, s.now().Sub(s.running[id]).Seconds()))
		}
	}
	switch {
	case len(waiting) > 0:
		s.print("     running " + strings.Join(waiting[:min(3, len(waiting))], ", "))
	case len(s.running) > 0:
		s.print("     running " + sortedTests(s.running)[0].String())
	default:
		s.print(fmt.Sprintf("     compiling, %.0f s since the start", s.now().Sub(s.start).Seconds()))
	}
}

// finish prints the skipped tests by reason and, last, the sum of all. It returns 1 unless every test that ran passed.
func (s *summary) finish() int {
	for _, why := range slices.Sorted(maps.Keys(s.skips)) {
		s.print(fmt.Sprintf("\nskipped %d: %s", len(s.skips[why]), why))
		for _, id := range s.skips[why] {
			s.print("  " + id.String())
		}
	}
	s.print(fmt.Sprintf("\n%s after %.0f s", verdict(s.total), s.now().Sub(s.start).Seconds()))
	s.print(s.total.String())
	if s.total.failed > 0 || s.total == (count{}) {
		return 1
	}
	return 0
}

func verdict(c count) string {
	switch {
	case c == count{}:
		return "no test ran"
	case c.failed > 0:
		return "FAILED"
	default:
		return "done"
	}
}

// where is what the testing package puts before a log line.
var where = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// reason finds what a test said when it skipped itself.
func reason(output []string) string {
	var said []string
	for _, line := range output {
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ") {
			continue
		}
		said = append(said, strings.TrimSpace(where.ReplaceAllString(line, "")))
	}
	return cmp.Or(strings.Join(said, " "), "no reason given")
}
