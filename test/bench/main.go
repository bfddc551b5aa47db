// Command bench measures the agent in a cluster of thousands of Nodes: a real etcd and kube-apiserver, Node objects as
// big as busy kubelets make them, and the real agent in a network namespace with one NIC. Times are taken from the
// kernel's own notifications, CPU time and memory from the agent's process. With -datapath it measures packets between
// pods instead, and with -agents what many agents cost the API server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/sandbox"
)

const usage = `bench measures the agent in a cluster of many Nodes, packets between pods, or what many agents cost the API server, in
namespaces of its own.

Usage:
  bench [flags]
  bench -datapath [flags]
  bench -agents 1000 -nodes 1000 [flags]

A short run: bench -nodes 1000 -starts 1 -samples 5 -settle 1s -only new,delete,flush

Flags:
`

type options struct {
	nodelab.Config
	nodes      int
	dualStack  bool
	offLink    bool
	claims     bool
	only       string
	starts     int
	samples    int
	heartbeats int
	settle     time.Duration
	idle       time.Duration
	limit      time.Duration
	output     string
	agentLog   string
	must       bool
	datapath   bool
	agents     int
	rounds     int
	length     time.Duration
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) == 3 && args[0] == readerCommand {
		return failed(readWatch(args[1], args[2]))
	}
	opts, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
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
	return inside(opts)
}

func parse(args []string) (options, error) {
	opts := options{Config: nodelab.DefaultConfig()}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&opts.Assets, "assets", opts.Assets, "folder of etcd and kube-apiserver ($KUBEBUILDER_ASSETS)")
	flags.StringVar(&opts.Plugins, "cni-bin", opts.Plugins, "folder of the CNI plugins ($CNI_BIN)")
	flags.StringVar(&opts.Agent, "plainroute", opts.Agent, "the plainroute binary ($PLAINROUTE_BIN)")
	flags.IntVar(&opts.nodes, "nodes", 5000, "number of Nodes, including the agent's own")
	flags.BoolVar(&opts.dualStack, "dual-stack", false, "give each Node an IPv6 address and pod subnet as well")
	flags.BoolVar(&opts.offLink, "off-link", false, "put all other Nodes behind a router, and start the agent with --encapsulation=cross-subnet")
	flags.BoolVar(&opts.claims, "claims", false, "give each Node only a pod subnet and an InternalIP, serve all from this process instead of a kube-apiserver, and measure plan too")
	flags.StringVar(&opts.only, "only", "", "measure these after the start, separated by commas, instead of all: "+
		strings.Join(sectionNames(options{}), ",")+"; with -off-link "+strings.Join(sectionNames(options{offLink: true}), ",")+"; with -claims "+strings.Join(sectionNames(options{claims: true}), ",")+
		"; with -agents "+strings.Join(fleetSections, ",")+", where start and roll-unsaved have no saved view")
	flags.IntVar(&opts.starts, "starts", 3, "how often to start on an empty table")
	flags.IntVar(&opts.samples, "samples", 30, "how often to repeat a measurement of one route")
	flags.IntVar(&opts.heartbeats, "heartbeats", 500, "number of status heartbeats")
	flags.DurationVar(&opts.settle, "settle", time.Minute, "when to read the peak memory again")
	flags.DurationVar(&opts.idle, "idle", time.Minute, "length of the idle measurement; the agent's audit runs once a minute")
	flags.DurationVar(&opts.limit, "limit", 20*time.Minute, "give up after this long")
	flags.BoolVar(&opts.must, "must", false, "exit with 1 if a figure misses its limit, which is meant for two quiet cores and, but for the start, 5,000 Nodes")
	flags.BoolVar(&opts.datapath, "datapath", false, "measure packets between pods of four nodes instead, by plain routes and by VXLAN beside host to host")
	flags.IntVar(&opts.agents, "agents", 0, "measure instead what so many agents, simulated in this process, cost the API server when they start, in a rollout and after its restart")
	flags.IntVar(&opts.rounds, "rounds", 15, "how often -datapath measures each path")
	flags.DurationVar(&opts.length, "length", 500*time.Millisecond, "length of one measurement of -datapath")
	flags.StringVar(&opts.output, "o", "table", "table or json")
	flags.StringVar(&opts.agentLog, "agent-log", filepath.Join(opts.Dir, "bench.log"), "file that the agent's log is appended to")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	opts.Fake = opts.claims
	return opts, opts.validate(flags.Args())
}

func (o *options) validate(rest []string) error {
	var faults []error
	if len(rest) > 0 {
		faults = append(faults, fmt.Errorf("%q: arguments are not allowed", rest))
	}
	most := maxNodes
	if o.claims {
		most = maxClaims
	}
	if o.nodes < 2*fewNodes || o.nodes > most {
		faults = append(faults, fmt.Errorf("-nodes: %d is not between %d and %d", o.nodes, 2*fewNodes, most))
	}
	if o.agents < 0 || o.agents > o.nodes {
		faults = append(faults, errors.New("-agents: at most as many as Nodes"))
	}
	if o.claims && (o.dualStack || o.offLink) {
		faults = append(faults, errors.New("-claims: not with -dual-stack or -off-link"))
	}
	if o.rounds < 1 || o.length <= 0 {
		faults = append(faults, errors.New("-rounds, -length: above 0"))
	}
	if o.samples < 1 || o.samples > o.nodes/2 || o.starts < 1 || o.heartbeats < 1 {
		faults = append(faults, errors.New("-starts, -samples, -heartbeats: at least 1, and no more samples than half the Nodes"))
	}
	if o.output != "table" && o.output != "json" {
		faults = append(faults, fmt.Errorf("-o: %q is neither table nor json", o.output))
	}
	for _, name := range o.wanted() {
		if all := sectionNames(*o); !slices.Contains(all, name) {
			faults = append(faults, fmt.Errorf("-only: %q is none of %s", name, strings.Join(all, ",")))
		}
	}
	for _, path := range []*string{&o.Assets, &o.Plugins, &o.Agent, &o.agentLog} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			faults = append(faults, err)
		}
		*path = absolute
	}
	return errors.Join(faults...)
}

// wanted are the sections to run.
func (o *options) wanted() []string {
	if o.only == "" {
		return sectionNames(*o)
	}
	return strings.Split(o.only, ",")
}

// inside is the bench proper, in the sandbox: it only has to return for everything to be taken down.
func inside(opts options) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, opts.limit)
	defer cancel()
	done := make(chan error, 1)
	measure := measureAgent
	switch {
	case opts.datapath:
		measure = measureDatapath
	case opts.agents > 0:
		measure = measureFleet
	}
	go func() { done <- measure(ctx, opts) }()
	select {
	case <-ctx.Done():
	case err := <-done:
		return failed(err)
	}
	select {
	case err := <-done: // it has printed what it has
		return failed(errors.Join(context.Cause(ctx), err))
	case <-time.After(patience):
		return failed(context.Cause(ctx))
	}
}

// patience is how long a measurement that was interrupted may take to end.
const patience = 5 * time.Second

func failed(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return 1
}
