// Command soak does thousands of random faults to one node of a small cluster (a real etcd and kube-apiserver, the real
// agent, a real kernel in namespaces) and then looks for signs of a slow leak: goroutines, file descriptors, heap.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/sandbox"
)

const usage = `soak does random faults to a node and looks for leaks in its agent.

Usage:
  soak [flags]

It ends after -faults faults or after -for, whichever comes later. The same -seed gives the same faults.

Flags:
`

type options struct {
	nodelab.Config
	pace
	seed uint64
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	opts, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 2
	}
	if sandbox.Outside() {
		if err := opts.Check(); err != nil {
			return failed(err)
		}
	}
	box, code, err := sandbox.Enter(nil)
	if err != nil || box == nil {
		return max(code, failed(err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return failed(soak(ctx, opts))
}

func parse(args []string) (options, error) {
	opts := options{Config: nodelab.DefaultConfig()}
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.IntVar(&opts.faults, "faults", 3000, "minimum number of faults")
	flags.DurationVar(&opts.every, "every", 200*time.Millisecond, "average interval of faults; much less mostly meets the agent's back-off")
	flags.DurationVar(&opts.last, "for", 0, "minimum duration")
	flags.Uint64Var(&opts.seed, "seed", uint64(time.Now().UnixNano()), "seed of the random faults")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 || opts.faults < 1 || opts.last < 0 || opts.every <= 0 {
		return options{}, errors.New("-faults must be 1 or more, -for not negative, -every above 0; arguments are not allowed")
	}
	for _, path := range []*string{&opts.Assets, &opts.Plugins, &opts.Agent} {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return options{}, err
		}
	}
	return opts, nil
}

func failed(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "soak:", err)
	return 1
}
