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
	"github.com/plainroute/plainroute/pkg/text"
)

// checkFlags are the choices of the check command.
type checkFlags struct {
	workstationFlags
	image   string
	nodes   int
	outside []string
	timeout time.Duration
	keep    bool
	remove  bool
	output  string
}

func checkCommand() *cobra.Command {
	f := &checkFlags{}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Test the pod network of a cluster with pods on every node",
		Long: `check makes two pods on each node, of plainroute's own image and in a namespace of
their own, and has them speak to each other: from each node to each, on the same
node too, over IPv4 and IPv6, by TCP, small datagrams, datagrams as large as the
MTU and larger ones, and sees that nobody translates their addresses. They try each
node's address, a Service, names, and what --outside names. Then all is removed, on
Ctrl-C too.

Of more than --nodes nodes as many are drawn. A node that can't take part is named
with the reason, and the others are tested.

Exit codes: 0 all packets arrived; 1 some did not, or a node could not take part;
2 wrong flags or arguments; 4 the test could not be made.`,
		Example: `  # The cluster of the current context
  plainroute check

  # With a host beyond the cluster, as JSON
  plainroute check --outside 192.0.2.10:443 -o json

  # What a run left that was killed
  plainroute check --remove`,
		Annotations: map[string]string{readOnly: ""},
		Args:        noArgs,
		RunE:        func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.workstationFlags.register(fs)
	fs.StringVar(&f.image, "image", "", "image of the pods (default: the agents')")
	fs.IntVar(&f.nodes, "nodes", 200, "how many nodes take part at most; of more, as many are drawn")
	fs.StringSliceVar(&f.outside, "outside", nil, "ADDRESS:PORT of a host beyond the cluster that pods should reach")
	fs.DurationVar(&f.timeout, "timeout", 2*time.Minute, "how long the pods may take to be ready, and one to answer beyond the time that its probes take")
	fs.BoolVar(&f.keep, "keep", false, "leave the pods there, to look at")
	fs.BoolVar(&f.remove, "remove", false, "remove what earlier runs left, and test nothing")
	fs.StringVarP(&f.output, "output", "o", "table", "table or json")
	offer(cmd, "output", "table", "json")
	return cmd
}

func (f *checkFlags) validate() error {
	var faults []error
	if f.nodes < 1 {
		faults = append(faults, fmt.Errorf("--nodes: %d nodes can't be tested", f.nodes))
	}
	if f.timeout <= 0 {
		faults = append(faults, fmt.Errorf("--timeout: %s is no time to wait", f.timeout))
	}
	if f.output != "table" && f.output != "json" {
		faults = append(faults, fmt.Errorf("--output: %q is neither table nor json", f.output))
	}
	for _, to := range f.outside {
		if host, port, err := net.SplitHostPort(to); err != nil || host == "" || port == "" {
			faults = append(faults, fmt.Errorf("--outside: %q is not ADDRESS:PORT such as 192.0.2.10:443", to))
		}
	}
	return faultsError(faults)
}

func (f *checkFlags) run(cmd *cobra.Command) error {
	if err := f.validate(); err != nil {
		return err
	}
	config, client, err := f.connect()
	if err != nil {
		return err
	}
	klog.SetLogger(logr.Discard()) // client-go complains of what an interruption cuts short; all that fails is told by us
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
		say(fmt.Sprintf("Another run goes on, or was killed and left %d namespaces; plainroute check --remove removes them.", len(left)))
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

// end shows what was found, if anything was, though the test's pods could not be removed.
func (f *checkFlags) end(cmd *cobra.Command, result *connectivity.Result, err error) error {
	if result == nil {
		return err
	}
	result.Program = cmd.Root().DisplayName()
	if shown := f.print(cmd.OutOrStdout(), result); err == nil {
		return shown
	}
	return err
}

func (f *checkFlags) print(w io.Writer, result *connectivity.Result) error {
	var err error
	if f.output == "json" {
		err = text.WriteJSON(w, result)
	} else {
		err = result.Print(w)
	}
	if err == nil && !result.OK() {
		return errShown
	}
	return err
}

// imageOf returns the image that the agents run, unless another is asked for.
func (f *checkFlags) imageOf(ctx context.Context, client kubernetes.Interface) (string, corev1.PullPolicy, error) {
	if f.image != "" {
		return f.image, corev1.PullIfNotPresent, nil
	}
	sets, err := fleet.DaemonSets(ctx, client, f.namespace)
	if err != nil {
		return "", "", asUsage(fmt.Errorf("looking for the agents' image: %w (or say which: --image)", err))
	}
	if len(sets) > 0 {
		image, pull := fleet.AgentImage(&sets[0])
		return image, pull, nil
	}
	return "", "", errors.New("there are no agents in the cluster whose image could be used; say which: --image")
}

// removeAll removes what earlier runs left.
func removeAll(ctx context.Context, client kubernetes.Interface, namespaces []string, say func(string)) error {
	if len(namespaces) == 0 {
		say("Nothing was left.")
	}
	var faults []error
	for _, name := range namespaces {
		if err := connectivity.Remove(ctx, client, name); err != nil {
			faults = append(faults, err) // of one, which keeps none of the others
			continue
		}
		say("Removed the namespace " + name + ".")
	}
	return errors.Join(faults...)
}
