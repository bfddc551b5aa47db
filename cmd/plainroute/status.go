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

type statusFlags struct {
	clusterFlags
	nodeFlags
	node                     *pflag.FlagSet // the flags that an agent has too, which the environment may set
	cluster, problems, watch bool
	output                   string
	interval                 time.Duration
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
		RunE:        f.run,
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

func (f *statusFlags) run(cmd *cobra.Command, _ []string) error {
	if err := f.validate(); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // the process is short-lived
	}
	show := f.showNode
	if f.cluster {
		show = f.clusterStatus
	}
	if f.watch {
		return watch(cmd, f.interval, f.output == "yaml", show)
	}
	return show(cmd)
}

func (f *statusFlags) validate() error {
	outputs := status.Outputs
	if f.cluster {
		outputs = fleet.Outputs
	}
	errs := slices.Concat(environment(f.node), f.check(), checkFlags(f.node))
	return invalidFlags(append(errs, oneOf("output", f.output, outputs...), atLeast("interval", f.interval, 100*time.Millisecond))...)
}

// showNode shows this node once.
func (f *statusFlags) showNode(cmd *cobra.Command) error {
	view := f.view(cmd.Context())
	err := view.Print(cmd.OutOrStdout(), status.Format{Output: f.output, Problems: f.problems, Color: colorful(cmd.OutOrStdout())})
	if err != nil {
		return err
	}
	if view.NoReport != "" && view.Leftover.Empty() {
		fmt.Fprintln(cmd.ErrOrStderr(), "If this machine is not a node, `plainroute status --cluster` queries the agents of all nodes, from wherever kubectl works.")
	}
	return shown(view.OK(), nil)
}

// view returns the agent's report or, if it does not answer, the state of the kernel.
func (f *statusFlags) view(ctx context.Context) *status.View {
	report, err := askAgent(ctx, f.listen, f.timeout, f.output == "json" || f.output == "yaml")
	if err != nil {
		return status.NoReportView(err.Error(), f.leftover(ctx), time.Now())
	}
	return status.NewView(*report, time.Now())
}

const maxReport = 256 << 20 // exceeds the size of any report: some 500 bytes a peer

// askAgent returns the report of the agent that listens there, whole or with the parts that are shown.
func askAgent(ctx context.Context, listen string, timeout time.Duration, whole bool) (*status.Report, error) {
	if listen == "" {
		return nil, errors.New("the agent does not listen (--listen is empty)")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	host := reachable(listen)
	body, err := get(ctx, fmt.Sprintf("http://%s/status?brief=%t", host, !whole))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, timeoutError(timeout)
	}
	if err != nil {
		return nil, err
	}
	report := &status.Report{}
	if err := json.Unmarshal(body, report); err != nil {
		return nil, fmt.Errorf("%s is not an agent, or has another version: %w", host, err)
	}
	return report, nil
}

// get returns the answer of a server of plainroute on this host, without a proxy.
func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	answer, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxReport))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %.200s", request.Host, answer.Status, body)
	}
	return body, err
}

// timeoutError is the time in which no answer arrived.
type timeoutError time.Duration

func (e timeoutError) Error() string { return "no answer within " + time.Duration(e).String() }

func (timeoutError) Unwrap() error { return context.DeadlineExceeded }

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
