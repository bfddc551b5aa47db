// Command demo shows plainroute's main job on one machine: agents on three nodes watch a real kube-apiserver, program
// routes into real kernels and write the CNI config, and pods attached by the stock plugins reach each other without
// NAT, one node being behind a router. Each thing that it shows, it checks; it ends with an error at the first that isn't so.
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

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/sandbox"
)

const usage = `demo shows plainroute's main job on a cluster made of network namespaces.

Usage:
  demo [flags]     run it; make demo builds what it needs and runs it, make quick does so for demo --quick
  demo down        take down a demo that was kept

With KEEP=1 (or --keep) the cluster stays up in the background afterwards.

Flags:
`

type options struct {
	nodelab.Config
	keep bool
	down bool
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
		return 2
	case opts.down:
		return report(down())
	}
	if sandbox.Outside() {
		if err := errors.Join(refuseSecond(), opts.Check()); err != nil {
			return report(err)
		}
	}
	box, code, err := sandbox.Enter(func(pid int) error { return keep(pid, opts.Config) })
	if err != nil || box == nil {
		return max(code, report(err))
	}
	return inside(box, opts)
}

func parse(args []string) (options, error) {
	opts := options{Config: nodelab.DefaultConfig()}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.StringVar(&opts.Assets, "assets", opts.Assets, "folder of etcd and kube-apiserver ($KUBEBUILDER_ASSETS)")
	flags.StringVar(&opts.Plugins, "cni-bin", opts.Plugins, "folder of the CNI plugins ($CNI_BIN)")
	flags.StringVar(&opts.Agent, "plainroute", opts.Agent, "the plainroute binary ($PLAINROUTE_BIN)")
	flags.BoolVar(&opts.Fake, "quick", false, "have a small API server in this process instead of etcd and kube-apiserver")
	flags.BoolVar(&opts.keep, "keep", os.Getenv("KEEP") == "1", "leave the cluster up ($KEEP=1)")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	opts.down = flags.Arg(0) == "down"
	if flags.NArg() > 1 || flags.NArg() == 1 && !opts.down {
		err := fmt.Errorf("%q is not a command of demo; see demo --help", flags.Args())
		report(err)
		return options{}, err
	}
	for _, path := range []*string{&opts.Assets, &opts.Plugins, &opts.Agent} {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return options{}, fmt.Errorf("finding the binaries: %w", err)
		}
	}
	return opts, nil
}

func report(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	return 1
}

// inside is the demo proper, in the sandbox: it only has to return for everything to be taken down.
func inside(box *sandbox.Box, opts options) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	show := newScreen(os.Stdout)
	done := make(chan error, 1)
	go func() { done <- newStory(show, opts.Config).run(ctx) }()
	select {
	case <-ctx.Done():
		show.interrupted()
		return 130
	case err := <-done:
		if err != nil {
			show.failed(err)
			return 1
		}
	}
	show.finished()
	if !opts.keep {
		return 0
	}
	if err := box.Keep(); err != nil {
		return report(err)
	}
	<-ctx.Done()
	return 0
}
