package main

import (
	"slices"
	"testing"
)

func TestMissedLimits(t *testing.T) {
	r := &report{}
	r.add("no limit", 5, "ms", 0)
	r.add("kept", 5, "ms", 6)
	r.add("missed", 6, "ms", 6)
	r.add("nothing happened", 0, "", exactly0)
	r.add("something happened", 1, "", exactly0)
	r.Results = append(r.Results, result{Name: "enough", Value: 0.8, Least: 0.8}, result{Name: "too little", Value: 0.79, Least: 0.8})
	if got := r.missed(); !slices.Equal(got, []string{"missed", "something happened", "too little"}) {
		t.Errorf("missed: %q", got)
	}
	var limits []string
	for _, result := range r.Results {
		limits = append(limits, result.limit())
	}
	if want := []string{"", "< 6 ms", "< 6 ms: missed", "0", "0: missed", ">= 0.8", ">= 0.8: missed"}; !slices.Equal(limits, want) {
		t.Errorf("limits %q; want %q", limits, want)
	}
}
