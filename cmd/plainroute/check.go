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
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/plainroute/plainroute/pkg/connectivity"
	"github.com/plainroute/plainroute/pkg/fleet"
)

type connectivityFlags struct {
	workstationFlags
	image, output string
	nodes         int
	outside       []string
	timeout       time.Duration
	keep, remove  bool
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
	fs.StringVar(&f.image, "image", "", "image of the pods (default: the agents')")
	fs.IntVar(&f.nodes, "nodes", 200, "maximum number of nodes; of more, as many are selected at random")
	fs.StringSliceVar(&f.outside, "outside", nil, "ADDRESS:PORT of a host beyond the cluster that pods should reach")
	fs.DurationVar(&f.timeout, "timeout", 2*time.Minute, "time limit for the pods to be ready, and for the answer of one beyond the time that its probes take")
	fs.BoolVar(&f.keep, "keep", false, "keep the pods, to look at")
	fs.BoolVar(&f.remove, "remove", false, "remove the namespaces of earlier runs, and test nothing")
	chooseOutput(cmd, &f.output, "table")
	return cmd
}

func (f *connectivityFlags) validate() error {
	errs := []error{atLeast("nodes", f.nodes, 1), atLeast("timeout", f.timeout, time.Millisecond), oneOf("output", f.output, "table", "json")}
	for _, to := range f.outside {
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
	r := &connectivity.Run{
		Client: client, MaxNodes: f.nodes, Outside: f.outside, Timeout: f.timeout, RetryBudget: connectivity.RetryBudget, RefusalTimeout: connectivity.RefusalTimeout, Keep: f.keep, Notify: say,
		Post: func(ctx context.Context, namespace, pod, path string, body []byte) (io.ReadCloser, error) {
			forward := fleet.Forward{Config: config, Client: client}
			return forward.Post(ctx, &fleet.Agent{Namespace: namespace, Pod: pod, Port: connectivity.Port}, path, body)
		},
	}
	if r.Image, r.Pull, err = f.imageOf(ctx, client); err != nil {
		return err
	}
	bar := newProgress(cmd.ErrOrStderr(), "")
	r.Progress = func(what string, done, all int) {
		bar.what = what
		bar.show(done, all)
	}
	result, err := r.Do(ctx)
	bar.end()
	return f.end(cmd, result, err)
}

// end prints the result, if there is one, even if the test's pods could not be removed.
func (f *connectivityFlags) end(cmd *cobra.Command, result *connectivity.Result, err error) error {
	if result == nil {
		return err
	}
	if shown := shown(result.OK(), write(cmd.OutOrStdout(), f.output, result)); err == nil {
		return shown
	}
	return err
}

// imageOf returns the image of the agents, unless --image names another.
func (f *connectivityFlags) imageOf(ctx context.Context, client kubernetes.Interface) (string, corev1.PullPolicy, error) {
	if f.image != "" {
		return f.image, corev1.PullIfNotPresent, nil
	}
	sets, err := fleet.DaemonSets(ctx, client, f.namespace)
	if err != nil {
		return "", "", asUsage(fmt.Errorf("looking for the agents' image: %w (or name it: --image)", err))
	}
	if len(sets) > 0 {
		image, pull := fleet.AgentImage(&sets[0])
		return image, pull, nil
	}
	return "", "", errors.New("the cluster has no agents whose image check could use; name it: --image")
}

// removeAll removes the namespaces of earlier runs.
func removeAll(ctx context.Context, client kubernetes.Interface, namespaces []string, say func(string)) error {
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
