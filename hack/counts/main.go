// Command counts runs benchmarks and compares what they count with a saved file: allocations, bytes and netlink messages, which
// a busy machine does not change. Its exit code is 1 if one of them has grown by more than a tenth.
//
//	counts           compares
//	counts -save     writes the file
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = `counts runs Go benchmarks and compares what they count (allocations, bytes, netlink messages) with a saved
file. It must be run in the module's folder. The exit code is 1 if a count has grown by more than a tenth.

Usage:
  counts [flags]

Flags:
`

// timeLimit is some ten times what all benchmarks take, once they are compiled.
const timeLimit = 10 * time.Minute

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code.
func run(args []string) int {
	flags := flag.NewFlagSet("counts", flag.ContinueOnError)
	save := flags.Bool("save", false, "write the file instead of comparing with it")
	path := flags.String("file", "hack/counts/counts.txt", "the saved counts")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil || flags.NArg() > 0:
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	grown, err := command(ctx, *path, *save)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "counts:", err)
		return 2
	case grown:
		return 1
	}
	return 0
}

// command measures, and saves or compares. It reports whether a count has grown.
func command(ctx context.Context, path string, save bool) (grown bool, err error) {
	now, skipped, err := measureAll(ctx)
	if err != nil {
		return false, err
	}
	if save {
		if len(skipped) > 0 {
			return false, fmt.Errorf("the benchmarks of %s were skipped, so nothing is saved", strings.Join(skipped, ", "))
		}
		return false, os.WriteFile(path, []byte(now.String()), 0o644)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("reading the saved counts: %w", err)
	}
	saved, err := parseCounts(string(file))
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	for _, folder := range skipped {
		maps.DeleteFunc(saved, func(name string, _ float64) bool { return strings.HasPrefix(name, folder+" ") })
	}
	worse, better := compare(saved, now)
	for _, line := range append(better, worse...) {
		fmt.Println(line)
	}
	fmt.Println(verdict(len(now), len(worse), len(better)))
	return len(worse) > 0, nil
}

func verdict(counts, worse, better int) string {
	parts := []string{fmt.Sprintf("%d counts", counts)}
	if worse > 0 {
		parts = append(parts, fmt.Sprintf("%d FAILED; if that is intended, save them by `make bench-counts`", worse))
	}
	if better > 0 {
		parts = append(parts, fmt.Sprintf("%d fell by more than a tenth: save them by `make bench-counts`", better))
	}
	return strings.Join(parts, ", ")
}
