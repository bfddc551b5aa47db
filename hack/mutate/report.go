package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// limit is how many mutants there must be for each that is alive.
const limit = 20

// A result is the fate of a mutant.
type result struct {
	Key    string `json:"key"`
	Diff   string `json:"diff"`
	Fate   fate   `json:"fate"`
	Reason string `json:"reason,omitempty"` // why it may live, of the list
}

// A tally counts the mutants of one package.
type tally struct {
	dir          string
	made, tried  int
	fates        map[fate]int
	reasoned     int
	tests        int
	broken       int
	measure, all time.Duration
}

// A report is of all packages.
type report struct {
	known   *knownList
	sampled bool
	out     io.Writer
	tallies []*tally
	results []result
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// add records the fate of a mutant, and prints one that is alive for no known reason.
func (r *report) add(t *tally, m *mutant, f fate) {
	key := m.key(t.dir)
	reason, listed := r.known.reasons[key]
	t.tried++
	t.fates[f]++
	r.results = append(r.results, result{key, m.diff(t.dir), f, reason})
	switch {
	case f != alive && f != notCovered:
		if listed {
			r.say("listed as alive, but a test fails with it: %s", key)
		}
	case listed:
		t.reasoned++
	default:
		r.say("%s: %s", f, m.diff(t.dir))
	}
}

// finish prints a line for each package.
func (r *report) finish() {
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "package\tmutants\ttried\tkilled\ttimed out\talive\tnot covered\tof these reasoned\ttests\ttime\t")
	for _, t := range r.tallies {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t\n", t.dir, t.made, t.tried, t.fates[killed], t.fates[stuck],
			t.fates[alive], t.fates[notCovered], t.reasoned, t.tests, t.all.Round(time.Second))
	}
	w.Flush()
	for _, key := range r.stale() {
		r.say("listed as alive, but there is no such mutant (any more): %s", key)
	}
	if !r.good() {
		r.say("more than one mutant in %d is alive, a listed one is gone, or tests fail without any", limit)
	}
}

// good reports whether few enough are alive, and the list is true. Of a sample those that are listed don't
// count, because chance may have put many of them into it.
func (r *report) good() bool {
	tried, living, broken := 0, 0, 0
	for _, t := range r.tallies {
		tried += t.tried
		living += t.fates[alive] + t.fates[notCovered]
		if r.sampled {
			living -= t.reasoned
		}
		broken += t.broken
	}
	return living*limit <= tried && broken == 0 && len(r.stale()) == 0
}

// stale returns listed mutants of the tried packages that don't exist.
func (r *report) stale() []string {
	var gone []string
	for _, key := range r.known.keys {
		for _, t := range r.tallies {
			if strings.HasPrefix(key, t.dir+"/") && !r.known.found[key] {
				gone = append(gone, key)
			}
		}
	}
	return gone
}

// write writes the fate of each mutant as JSON, if a file for it is named.
func (r *report) write(file string) error {
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(r.results, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o600)
}
