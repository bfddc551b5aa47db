package main

import (
	"maps"
	"slices"
	"testing"
)

const output = `goos: linux
cpu: Some Processor
BenchmarkObserve/all-2         	       5	 122674023 ns/op	         6.000 messages/op	38447792 B/op	  196940 allocs/op
BenchmarkDiff  	      20	      2701 ns/op	    1449 B/op	      12 allocs/op
PASS
ok  	example.com/pkg	0.020s
`

func TestOutputIsRead(t *testing.T) {
	got, err := readOutput("pkg", output)
	want := counts{
		"pkg BenchmarkObserve/all messages/op": 6, "pkg BenchmarkObserve/all B/op": 38447792, "pkg BenchmarkObserve/all allocs/op": 196940,
		"pkg BenchmarkDiff B/op": 1449, "pkg BenchmarkDiff allocs/op": 12,
	}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	again, err := parseCounts(got.String())
	if err != nil || !maps.Equal(again, want) {
		t.Errorf("saved and read: %v, %v", again, err)
	}
}

func TestBadFileIsAnError(t *testing.T) {
	for _, line := range []string{"pkg BenchmarkA B/op", "word", "pkg BenchmarkA B/op 1x"} {
		if got, err := parseCounts(line); err == nil {
			t.Errorf("%q is read as %v", line, got)
		}
	}
}

func TestCompare(t *testing.T) {
	saved := counts{"same": 100, "a little": 100, "grown": 100, "fallen": 100, "from nothing": 0, "nothing": 0, "gone": 1}
	now := counts{"same": 100, "a little": 110, "grown": 111, "fallen": 89, "from nothing": 1, "nothing": 0, "new": 2}
	worse, better := compare(saved, now)
	if want := []string{"from nothing: 1, saved 0", "gone: saved, and not measured", "grown: 111, saved 100 (+11 %)", "new: 2, not saved"}; !slices.Equal(worse, want) {
		t.Errorf("worse: %q, want %q", worse, want)
	}
	if want := []string{"fallen: 89, saved 100 (-11 %)"}; !slices.Equal(better, want) {
		t.Errorf("better: %q, want %q", better, want)
	}
}

func TestVerdict(t *testing.T) {
	for want, got := range map[string]string{
		"3 counts": verdict(3, 0, 0),
		"3 counts, 1 FAILED; if that is intended, save them by `make bench-counts`, 2 fell by more than a tenth: save them by `make bench-counts`": verdict(3, 1, 2),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
