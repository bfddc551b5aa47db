package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A benchmark is one whose counts are compared. It runs a fixed number of times, or the counts would depend on the
// machine's speed.
type benchmark struct {
	folder, pattern string // as for go test -bench
	times           int
}

var benchmarks = []benchmark{
	{"pkg/topology", "^Benchmark(Desired|Incremental)$/^5000$", 20},
	{"pkg/plan", "^BenchmarkDiff$", 20},
	{"pkg/nodes", "^Benchmark(WireStream|EncodeSaved|DecodeSaved)$", 20},
	{"pkg/dataplane", "^Benchmark(Observe|Apply|Pass)$", 5},
	{"controllers", "^BenchmarkReconcile$", 10},
}

// measureAll runs all benchmarks, and returns the folders of those that this machine can't run too.
func measureAll(ctx context.Context) (all counts, skipped []string, err error) {
	all = counts{}
	for _, b := range benchmarks {
		start := time.Now()
		some, err := b.measure(ctx)
		if errors.Is(err, errSkipped) {
			skipped = append(skipped, b.folder)
		} else if err != nil {
			return nil, nil, err
		}
		fmt.Fprintf(os.Stderr, "%s: %d counts in %.1f s\n", b.folder, len(some), time.Since(start).Seconds())
		for name, n := range some {
			all[name] = n
		}
	}
	return all, skipped, nil
}

// errSkipped is returned for benchmarks that this machine can't run, for example without network namespaces.
var errSkipped = errors.New("skipped")

// measure runs a benchmark. A garbage collection would empty pools at a random time, so there is none.
func (b benchmark) measure(ctx context.Context) (counts, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-trimpath", "-vet=off", "-count=1", "-run=^$", "-bench="+b.pattern,
		fmt.Sprintf("-benchtime=%dx", b.times), "-benchmem", "-v", "./"+b.folder)
	cmd.Env = append(os.Environ(), "GOGC=off", "CGO_ENABLED=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("running the benchmarks of %s: %w\n%s", b.folder, errors.Join(err, ctx.Err()), out.String())
	}
	if _, reason, found := strings.Cut(out.String(), "--- SKIP: "); found {
		reason, _, _ = strings.Cut(reason, "\nPASS")
		fmt.Fprintf(os.Stderr, "%s: SKIPPED: %s\n", b.folder, reason)
		return nil, errSkipped
	}
	return readOutput(b.folder, out.String())
}

// processors is what go test appends to a benchmark's name: GOMAXPROCS, if that is not 1.
var processors = regexp.MustCompile(`-\d+$`)

// readOutput reads lines of go test: name, iterations, and pairs of a value and its unit. Times are left out.
func readOutput(folder, output string) (counts, error) {
	all := counts{}
	for scanner := bufio.NewScanner(strings.NewReader(output)); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("reading the output of %s: %w", folder, err)
			}
			if unit := fields[i+1]; !strings.HasPrefix(unit, "ns/") {
				all[folder+" "+processors.ReplaceAllString(fields[0], "")+" "+unit] = value
			}
		}
	}
	return all, nil
}
