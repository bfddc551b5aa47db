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

// statusFlags are the flags of status.
type statusFlags struct {
	clusterFlags
	nodeFlags
	// node are the flags that an agent has too, which the environment may set.
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
		Short: "Show the state and the problems of this node or of the cluster",
		Long: `status queries the agent of this node, and shows the node, its problems with
their remediation, the differences between the kernel and the desired state, and
the state of each peer. It needs no API server. If no agent answers, it shows the
objects with plainroute's mark on this node.

The states of a peer are ok; missing: its route is not in the kernel; conflict: the
kernel prefers a foreign route; off link: it is behind a gateway; refused: the claim
of its Node is invalid; failed: the kernel refused the route.

With --cluster it queries all agents, from any workstation with a kubeconfig.

Exit codes: 0 no problems; 1 this node or a peer has a problem (with --cluster:
any node), or no agent answers; 2 wrong flags or arguments; 4 the state of the node
or the API server can't be read. With --watch, the exit code of the last report.`,
		Example: `  # On a node, or in the agent's pod
  plainroute status
  kubectl exec -n plainroute-system ds/plainroute -- /plainroute status

  # The problems, updated every two seconds
  plainroute status --problems --watch

  # The whole cluster, from a workstation
  plainroute status --cluster

  # The routes between all nodes
  plainroute status --cluster -o matrix

  # The nodes with problems
  plainroute status --cluster --problems

  # The names of the Nodes that this node has no working route to
  plainroute status --problems -o name`,
		Annotations: map[string]string{readOnly: ""},
		Args:        noArgs,
		RunE:        func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.clusterFlags.register(fs)
	fs.BoolVar(&f.cluster, "cluster", false, "query the agents of all nodes, through the API server")
	f.declare(f.node, "listen", "bridge", "run-dir", "cni-conf-dir", "proc-sys")
	fs.AddFlagSet(f.node)
	fs.StringVarP(&f.output, "output", "o", "table", strings.Join(status.Outputs, ", ")+"; with --cluster also matrix")
	offer(cmd, "output", fleet.Outputs...)
	fs.BoolVar(&f.problems, "problems", false, "show only peers, or with --cluster nodes, that have problems")
	fs.BoolVarP(&f.watch, "watch", "w", false, "repeat until interrupted")
	fs.DurationVar(&f.interval, "interval", 2*time.Second, "interval of --watch")
	return cmd
}

func (f *statusFlags) run(cmd *cobra.Command) error {
	if err := f.validate(); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // the process is short-lived
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
		faults = append(faults, fmt.Errorf("--output: %q is not one of %s", f.output, strings.Join(outputs, ", ")))
	}
	if f.interval < 100*time.Millisecond {
		faults = append(faults, fmt.Errorf("--interval: %s is less than 100ms", f.interval))
	}
	return faultsError(faults)
}

// showNode shows this node once.
func (f *statusFlags) showNode(cmd *cobra.Command) error {
	view := f.view(cmd.Context())
	err := view.Print(cmd.OutOrStdout(), status.Format{Output: f.output, Problems: f.problems, Color: colorful(cmd.OutOrStdout())})
	if err != nil {
		return err
	}
	if view.Silence != "" && view.Held.Bare() {
		fmt.Fprintln(cmd.ErrOrStderr(), "If this machine is not a node, `plainroute status --cluster` queries the agents of all nodes, from wherever kubectl works.")
	}
	if !view.OK() {
		return errShown
	}
	return nil
}

// view returns the agent's report or, if it does not answer, the state of the kernel.
func (f *statusFlags) view(ctx context.Context) *status.View {
	report, err := askAgent(ctx, f.listen, f.timeout, f.output == "json" || f.output == "yaml")
	if err != nil {
		return status.Silent(err.Error(), f.held(ctx), time.Now())
	}
	return status.Answered(*report, time.Now())
}

// maxReport exceeds the size of any report: some 500 bytes a peer.
const maxReport = 256 << 20

// askAgent returns the report of the agent that listens there, whole or with the parts that are shown.
func askAgent(ctx context.Context, listen string, timeout time.Duration, whole bool) (*status.Report, error) {
	if listen == "" {
		return nil, errors.New("the agent does not listen (--listen is empty)")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	where := url.URL{Scheme: "http", Host: reachable(listen), Path: "/status", RawQuery: fmt.Sprintf("brief=%t", !whole)}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}} // without a proxy
	answer, err := client.Do(request)
	if err != nil {
		return nil, requestError(err, timeout)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxReport))
	if err != nil {
		return nil, fmt.Errorf("reading the report of %s: %w", where.Host, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %.200s", where.Host, answer.Status, body)
	}
	report := &status.Report{}
	if err := json.Unmarshal(body, report); err != nil {
		return nil, fmt.Errorf("%s is not an agent, or has another version: %w", where.Host, err)
	}
	return report, nil
}

// timeoutError is the time in which no answer arrived.
type timeoutError time.Duration

func (e timeoutError) Error() string { return "no answer within " + time.Duration(e).String() }

func (timeoutError) Unwrap() error { return context.DeadlineExceeded }

// requestError returns the error of a request without its method and URL.
func requestError(err error, timeout time.Duration) error {
	var request *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return timeoutError(timeout)
	case errors.As(err, &request):
		return request.Err
	}
	return err
}

// reachable returns the address at which to reach a listener: localhost if it listens on all addresses.
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
