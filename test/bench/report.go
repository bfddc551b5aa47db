package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report contains the figures.
type report struct {
	Nodes     int      `json:"nodes"`
	NodeBytes int      `json:"nodeBytes"` // of one Node in protobuf
	DualStack bool     `json:"dualStack"`
	Results   []result `json:"results"`
}

// result is one figure. Must is its limit at 5,000 Nodes, on two cores, and Least what it must not
// be below; 0: no limit is set.
type result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	Must  float64 `json:"must,omitempty"`
	Least float64 `json:"least,omitempty"`
}

// ofHosts is the unit of ratios.
const ofHosts = "of host to host"

// exactly0 is the limit of events that must not happen.
const exactly0 = math.SmallestNonzeroFloat64

func (r *report) add(name string, value float64, unit string, must float64) {
	r.Results = append(r.Results, result{Name: name, Value: value, Unit: unit, Must: must})
}

// addChange adds the time from a change to its route, and to a plain client's watch event: the
// agent can't save what the API server and a busy machine take.
func (r *report) addChange(change, route string, routed, seen []time.Duration, must float64) {
	r.add(change+" a plain client's watch, median (a yardstick)", milliseconds(median(seen)), "ms", 0)
	r.add(change+" a plain client's watch, worst (a yardstick)", milliseconds(worst(seen)), "ms", 0)
	r.add(change+" "+route+", median", milliseconds(median(routed)), "ms", must)
	r.add(change+" "+route+", worst", milliseconds(worst(routed)), "ms", 0)
	beyond := make([]time.Duration, len(routed))
	for i := range routed {
		beyond[i] = routed[i] - seen[i]
	}
	r.add(change+" "+route+", beyond that watch, median", milliseconds(median(beyond)), "ms", 0)
	r.add(change+" "+route+", beyond that watch, worst", milliseconds(worst(beyond)), "ms", 0)
}

// missed are the results that don't keep their limits.
func (r *report) missed() []string {
	var names []string
	for _, result := range r.Results {
		if !result.kept() {
			names = append(names, result.Name)
		}
	}
	return names
}

// finish prints the report. With -must it fails if a limit is missed.
func (r *report) finish(to io.Writer, opts options) error {
	if err := r.print(to, opts.output); err != nil {
		return err
	}
	if missed := r.missed(); opts.must && len(missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(missed, "; "))
	}
	return nil
}

func (r *report) print(to io.Writer, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(to)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	must := "must"
	if r.Nodes > 0 {
		fmt.Fprintf(to, "%d Nodes of %d bytes in protobuf, dual-stack: %t\n\n", r.Nodes, r.NodeBytes, r.DualStack)
		must = "must at 5,000 Nodes; start at this number"
	}
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what\tmeasured\t"+must)
	for _, result := range r.Results {
		fmt.Fprintf(table, "%s\t%s\t%s\n", result.Name, result.measured(), result.limit())
	}
	return table.Flush()
}

func (r result) measured() string {
	digits := 2
	if r.Unit == "" || r.Unit == "us" {
		digits = 0
	}
	return fmt.Sprintf("%.*f %s", digits, r.Value, r.Unit)
}

func (r result) limit() string {
	limit := fmt.Sprintf("< %g %s", r.Must, r.Unit)
	switch {
	case r.Least > 0:
		limit = fmt.Sprintf(">= %g", r.Least)
	case r.Must == 0:
		return ""
	case r.Must == exactly0:
		limit = "0"
	}
	if !r.kept() {
		limit += ": missed"
	}
	return limit
}

func (r result) kept() bool { return r.Value >= r.Least && (r.Must == 0 || r.Value < r.Must) }

func median[T cmp.Ordered](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func worst[T cmp.Ordered](all []T) T { return slices.Max(all) }

func seconds(d time.Duration) float64 { return d.Seconds() }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
