package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/signal"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/plainroute/plainroute/pkg/connectivity"
	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/kube"
)

type connectivityFlags struct {
	workstationFlags
	connectivity.Run
	output string
	remove bool
}

func checkCommand() *cobra.Command {
	f := &connectivityFlags{}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Test the pod network of a cluster with pods on every node",
		Long: `check creates two pods on each node, from plainroute's own image and in a namespace
of their own. They send packets from each node to each node, also within one node,
over IPv4 and IPv6: by TCP, and as datagrams that are small, as large as the MTU,
and larger. The test also detects address translation on the way. The pods try each
node's address, a Service, DNS names, and the addresses of --outside. At the end,
also after Ctrl-C, check removes the namespace.

Of more than --nodes nodes, check selects as many at random. It names each node that
can't take part, with the reason, and tests the others.

Exit codes: 0 all packets arrived; 1 some did not, or a node could not take part;
2 wrong flags or arguments; 4 the test could not be run.`,
		Example: `  # The cluster of the current context
  plainroute check

  # With a host beyond the cluster, as JSON
  plainroute check --outside 192.0.2.10:443 -o json

  # Remove the namespaces of runs that were killed
  plainroute check --remove`,
		Annotations: map[string]string{readOnly: ""},
		RunE:        f.run,
	}
	fs := cmd.Flags()
	f.workstationFlags.register(fs)
	fs.StringVar(&f.Image, "image", "", "image of the pods (default: the agents')")
	fs.IntVar(&f.MaxNodes, "nodes", 200, "maximum number of nodes; of more, as many are selected at random")
	fs.StringSliceVar(&f.Outside, "outside", nil, "ADDRESS:PORT of a host beyond the cluster that pods should reach")
	fs.DurationVar(&f.Timeout, "timeout", 2*time.Minute, "time limit for the pods to be ready, and for the answer of one beyond the time that its probes take")
	fs.BoolVar(&f.Keep, "keep", false, "keep the pods, to look at")
	fs.BoolVar(&f.remove, "remove", false, "remove the namespaces of earlier runs, and test nothing")
	chooseOutput(cmd, &f.output, "table")
	return cmd
}

func (f *connectivityFlags) validate() error {
	errs := []error{atLeast("nodes", f.MaxNodes, 1), atLeast("timeout", f.Timeout, time.Millisecond), oneOf("output", f.output, "table", "json")}
	for _, to := range f.Outside {
		if host, port, err := net.SplitHostPort(to); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf("--outside: %q is not ADDRESS:PORT such as 192.0.2.10:443", to))
		}
	}
	return invalidFlags(errs...)
}

func (f *connectivityFlags) run(cmd *cobra.Command, _ []string) error {
	if err := f.validate(); err != nil {
		return err
	}
	config, client, err := f.connect()
	if err != nil {
		return err
	}
	klog.SetLogger(logr.Discard()) // client-go logs what an interruption cuts short; run returns all errors
	ctx := cmd.Context()
	context.AfterFunc(ctx, func() { signal.Reset() }) // the next Ctrl-C ends it at once
	say := func(what string) { fmt.Fprintln(cmd.ErrOrStderr(), what) }
	left, err := connectivity.Leftovers(ctx, client)
	if err != nil {
		return err
	}
	if f.remove {
		return removeAll(ctx, client, left, say)
	}
	if len(left) > 0 {
		say(fmt.Sprintf("%d namespaces of other runs exist; if none of those runs is in progress, plainroute check --remove removes them.", len(left)))
	}
	if err := f.setImage(ctx, client); err != nil {
		return err
	}
	f.Client, f.Notify, f.RetryBudget, f.RefusalTimeout = client, say, connectivity.RetryBudget, connectivity.RefusalTimeout
	forward := fleet.Forward{Config: config, Client: client}
	f.Post = func(ctx context.Context, namespace, pod, path string, body []byte) (io.ReadCloser, error) {
		return forward.Post(ctx, &fleet.Agent{Namespace: namespace, Pod: pod, Port: connectivity.Port}, path, body)
	}
	bar := newProgress(cmd.ErrOrStderr(), "")
	f.Progress = func(what string, done, all int) {
		bar.what = what
		bar.show(done, all)
	}
	result, err := f.Do(ctx)
	bar.end()
	return f.end(cmd, result, err)
}

// end prints the result, if there is one, even if the test's pods could not be removed.
func (f *connectivityFlags) end(cmd *cobra.Command, result *connectivity.Result, err error) error {
	if result == nil {
		return err
	}
	result.Program = cmd.Root().DisplayName()
	if shown := shown(result.OK(), write(cmd.OutOrStdout(), f.output, result)); err == nil {
		return shown
	}
	return err
}

// setImage sets the image to that of the agents, unless --image names another.
func (f *connectivityFlags) setImage(ctx context.Context, client *kube.Client) error {
	if f.Image != "" {
		f.Pull = corev1.PullIfNotPresent
		return nil
	}
	sets, err := fleet.DaemonSets(ctx, client, f.namespace)
	if err != nil {
		return asUsage(fmt.Errorf("looking for the agents' image: %w (or name it: --image)", err))
	}
	if len(sets) == 0 {
		return errors.New("the cluster has no agents whose image check could use; name it: --image")
	}
	f.Image, f.Pull = fleet.AgentImage(&sets[0])
	return nil
}

// removeAll removes the namespaces of earlier runs.
func removeAll(ctx context.Context, client *kube.Client, namespaces []string, say func(string)) error {
	if len(namespaces) == 0 {
		say("There was nothing to remove.")
	}
	var errs []error
	for _, name := range namespaces {
		if err := connectivity.Remove(ctx, client, name); err != nil {
			errs = append(errs, err)
			continue
		}
		say("Removed the namespace " + name + ".")
	}
	return errors.Join(errs...)
}
