// Command mutate puts small faults into the code, one at a time, and sees whether a test fails. Those
// with which all tests pass are alive: the tests can't see them.
//
//	mutate ./pkg/plan ./pkg/topology
//
// ./pkg/a+./pkg/b has the tests of b look as well. All mutants of a package are compiled into one test
// binary, each behind a switch, so that a mutant costs one run of the tests that reach it. Its exit
// code is 1 if more than one in twenty is alive, or if the list of those known to be alive is wrong. In
// a sample, those on the list don't count.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := command(ctx, args)
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "mutate: interrupted")
		return 130
	case errors.Is(err, flag.ErrHelp):
		return 2
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutate:", err)
		return 2
	case !ok:
		return 1
	}
	return 0
}

// options are the flags.
type options struct {
	sample   int
	seed     uint64
	list     string
	json     string
	match    string
	skip     string
	args     string
	coverage string
	jobs     int
	grace    time.Duration
	budget   time.Duration
	pkgs     []string
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("mutate", flag.ContinueOnError)
	fs.IntVar(&o.sample, "sample", 1, "try one mutant in this many, the same ones each time")
	fs.Uint64Var(&o.seed, "seed", 1, "seed of the sample")
	fs.StringVar(&o.list, "known", "", "file that lists mutants known to be alive, with the reason")
	fs.StringVar(&o.json, "json", "", "write the fate of each mutant to this file")
	fs.StringVar(&o.match, "match", "", "try only mutants whose key matches this regular expression, as in pkg/plan/(diff|key).go")
	fs.StringVar(&o.skip, "skip", "^$", "run no test whose name matches this regular expression, as slow ones")
	fs.StringVar(&o.args, "args", "-rapid.seed=1 -rapid.nofailfile -rapid.shrinktime=0s", "flags for test binaries that have them")
	fs.StringVar(&o.coverage, "coverage", "", "keep the tests' durations and the mutants they reach in this file, for as long as the code stays; delete it after a change of tests")
	fs.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "number of mutants to try at the same time")
	fs.DurationVar(&o.grace, "grace", 10*time.Second, "a mutant is stuck once tests take five times as long as without it, plus this")
	fs.DurationVar(&o.budget, "budget", time.Hour, "of the tests that reach a mutant, run the quickest, up to this total time")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.pkgs = fs.Args()
	if len(o.pkgs) == 0 || o.sample < 1 || o.jobs < 1 {
		return o, errors.New("name the packages, as in ./pkg/plan; --sample and --jobs are 1 or more")
	}
	return o, nil
}

func command(ctx context.Context, args []string) (bool, error) {
	o, err := parse(args)
	if err != nil {
		return false, err
	}
	known, err := readKnown(o.list)
	if err != nil {
		return false, err
	}
	r := &report{known: known, sampled: o.sample > 1, out: os.Stdout}
	for _, pkg := range o.pkgs {
		if err := o.mutate(ctx, pkg, r); err != nil {
			r.finish() // of what was tried
			return false, errors.Join(err, r.write(o.json))
		}
	}
	r.finish()
	return r.good(), r.write(o.json)
}
