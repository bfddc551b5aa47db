package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/status"
)

// statusFlags are the choices of the status command.
type statusFlags struct {
	clusterFlags
	nodeFlags
	// node are the flags that an agent has too, and that the environment may set as it does there.
	node     *pflag.FlagSet
	cluster  bool
	output   string
	problems bool
	watch    bool
	interval time.Duration
}

func statusCommand() *cobra.Command {
	f := &statusFlags{node: pflag.NewFlagSet("node", pflag.ContinueOnError)}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what this node or the cluster is like, what is wrong, and what to do",
		Long: `status asks the agent of the node that it runs on: what this node is, what is
wrong and what to do about it, how the kernel differs at this moment from what
it should be like, and how each peer is doing. It needs no API server. Where no
agent answers, it shows what bears plainroute's mark on the node.

A peer is ok; or missing: its route is not in the kernel; conflict: the kernel
prefers somebody else's route; off link: it is behind a gateway; refused: what
its Node claims can't be; failed: the kernel refused the route.

With --cluster it asks all agents, from any workstation with a kubeconfig.

Exit codes: 0 nothing is wrong; 1 this node or a peer has a problem (with
--cluster: any node), or no agent answers; 2 wrong flags or arguments; 4 the
state of the node or the API server can't be read. With --watch, as of the last
report.`,
		Example: `  # On a node, or in the agent's pod
  plainroute status
  kubectl exec -n plainroute-system ds/plainroute -- /plainroute status

  # What is wrong, rewritten every two seconds
  plainroute status --problems --watch

  # The whole cluster, from a workstation
  plainroute status --cluster

  # Who has a route to whom
  plainroute status --cluster -o matrix

  # The nodes with which something is wrong, and why
  plainroute status --cluster --problems

  # The Nodes that this one has no good route to
  plainroute status --problems -o name`,
		Annotations: map[string]string{readOnly: ""},
		Args:        noArgs,
		RunE:        func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.clusterFlags.register(fs)
	fs.BoolVar(&f.cluster, "cluster", false, "ask the agents of all nodes, through the API server")
	f.declare(f.node, "listen", "bridge", "run-dir", "cni-conf-dir", "proc-sys")
	fs.AddFlagSet(f.node)
	fs.StringVarP(&f.output, "output", "o", "table", strings.Join(status.Outputs, ", ")+"; with --cluster also matrix")
	offer(cmd, "output", fleet.Outputs...)
	fs.BoolVar(&f.problems, "problems", false, "show only peers, or with --cluster nodes, with which something is wrong")
	fs.BoolVarP(&f.watch, "watch", "w", false, "look again and again until interrupted")
	fs.DurationVar(&f.interval, "interval", 2*time.Second, "how often --watch looks")
	return cmd
}

func (f *statusFlags) run(cmd *cobra.Command) error {
	if err := f.validate(); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // what it takes it gives back at its end
	}
	show := f.showNode
	if f.cluster {
		show = func(cmd *cobra.Command) error {
			return clusterStatus(cmd, &f.clusterFlags, fleet.Format{Output: f.output, Problems: f.problems})
		}
	}
	if f.watch {
		return watch(cmd, f.interval, f.output == "yaml", show)
	}
	return show(cmd)
}

func (f *statusFlags) validate() error {
	faults := append(environment(f.node), f.faults()...)
	faults = append(faults, f.wrong(f.node)...)
	outputs := status.Outputs
	if f.cluster {
		outputs = fleet.Outputs
	}
	if !slices.Contains(outputs, f.output) {
		faults = append(faults, fmt.Errorf("--output: %q is none of %s", f.output, strings.Join(outputs, ", ")))
	}
	if f.interval < 100*time.Millisecond {
		faults = append(faults, fmt.Errorf("--interval: %s is less than 100ms", f.interval))
	}
	return faultsError(faults)
}

// showNode shows this node once.
func (f *statusFlags) showNode(cmd *cobra.Command) error {
	view := f.view(cmd.Context())
	err := view.Print(cmd.OutOrStdout(), status.Format{Output: f.output, Problems: f.problems, Color: colourful(cmd.OutOrStdout())})
	if err != nil {
		return err
	}
	if view.NoReport != "" && view.Leftover.Empty() {
		fmt.Fprintln(cmd.ErrOrStderr(), "Is this no node? `plainroute status --cluster` asks the agents of all nodes, from wherever kubectl works.")
	}
	if !view.OK() {
		return errShown
	}
	return nil
}

// view asks the agent, and where it doesn't answer the kernel.
func (f *statusFlags) view(ctx context.Context) *status.View {
	report, err := askAgent(ctx, f.listen, f.timeout, f.output == "json" || f.output == "yaml")
	if err != nil {
		return status.NoReportView(err.Error(), f.leftover(ctx), time.Now())
	}
	return status.NewView(*report, time.Now())
}

// maxReport is more than the report of any cluster takes: some 500 bytes a peer.
const maxReport = 256 << 20

// askAgent gets the report of the agent that listens there, whole or with what is shown.
func askAgent(ctx context.Context, listen string, patience time.Duration, whole bool) (*status.Report, error) {
	if listen == "" {
		return nil, errors.New("it listens nowhere (--listen is empty)")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	where := url.URL{Scheme: "http", Host: reachable(listen), Path: "/status", RawQuery: fmt.Sprintf("brief=%t", !whole)}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}} // and no proxy
	answer, err := client.Do(request)
	if err != nil {
		return nil, essence(err, patience)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxReport))
	if err != nil {
		return nil, fmt.Errorf("reading what %s says: %w", where.Host, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s says %s: %.200s", where.Host, answer.Status, body)
	}
	report := &status.Report{}
	if err := json.Unmarshal(body, report); err != nil {
		return nil, fmt.Errorf("%s is no agent, or one of another version: %w", where.Host, err)
	}
	return report, nil
}

// silence is how long nothing was said.
type silence time.Duration

func (s silence) Error() string { return "it says nothing for " + time.Duration(s).String() }

func (silence) Unwrap() error { return context.DeadlineExceeded }

// essence leaves out what we asked for: that is known.
func essence(err error, patience time.Duration) error {
	var request *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return silence(patience)
	case errors.As(err, &request):
		return request.Err
	}
	return err
}

// reachable is where to reach who listens there: who does on all addresses, does on
// this one.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if addr, err := netip.ParseAddr(host); host != "" && (err != nil || !addr.IsUnspecified()) {
		return listen
	}
	return net.JoinHostPort("localhost", port)
}
