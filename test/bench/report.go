package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
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

// result is one figure. Must is its limit at 5,000 Nodes, on two cores; 0: no limit is set.
type result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	Must  float64 `json:"must,omitempty"`
}

// exactly0 is the limit of events that must not happen.
const exactly0 = math.SmallestNonzeroFloat64

func (r *report) add(name string, value float64, unit string, must float64) {
	r.Results = append(r.Results, result{name, value, unit, must})
}

// addChange adds the time from a change to its route, and to a plain client's watch event: the
// agent can't save what the API server and a busy machine take.
func (r *report) addChange(change, route string, routed, seen []time.Duration, must float64) {
	r.add(change+" a plain client's watch, median (a yardstick)", milliseconds(median(seen)), "ms", 0)
	r.add(change+" a plain client's watch, worst (a yardstick)", milliseconds(worst(seen)), "ms", 0)
	r.add(change+" "+route+", median", milliseconds(median(routed)), "ms", must)
	r.add(change+" "+route+", worst", milliseconds(worst(routed)), "ms", 0)
}

// missed are the results that are not below their limits.
func (r *report) missed() []string {
	var names []string
	for _, result := range r.Results {
		if !result.kept() {
			names = append(names, result.Name)
		}
	}
	return names
}

func (r *report) print(to io.Writer, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(to)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	fmt.Fprintf(to, "%d Nodes of %d bytes in protobuf, dual-stack: %t\n\n", r.Nodes, r.NodeBytes, r.DualStack)
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what\tmeasured\tmust at 5,000 Nodes")
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
	switch r.Must {
	case 0:
		return ""
	case exactly0:
		limit = "0"
	}
	if !r.kept() {
		limit += ": missed"
	}
	return limit
}

func (r result) kept() bool { return r.Must == 0 || r.Value < r.Must }

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func worst[T cmp.Ordered](all []T) T { return slices.Max(all) }

func seconds(d time.Duration) float64 { return d.Seconds() }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
