package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's ways to log in
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/kube"
)

// workstationFlags are the flags of commands that reach a cluster as kubectl does.
type workstationFlags struct {
	kubeconfig, context, namespace, as string
	asGroups                           []string
}

func (f *workstationFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "file with the API server's address and credentials (default: as kubectl, $KUBECONFIG or ~/.kube/config)")
	fs.StringVar(&f.context, "context", "", "context of the kubeconfig (default: the current one)")
	fs.StringVarP(&f.namespace, "namespace", "n", "", "namespace of the agents (default: kube-system or plainroute-system, whichever has their DaemonSet)")
	fs.StringVar(&f.as, "as", "", "user to impersonate; a ServiceAccount is system:serviceaccount:NAMESPACE:NAME")
	fs.StringArrayVar(&f.asGroups, "as-group", nil, "group to impersonate; may be repeated")
}

// connect reads the kubeconfig by kubectl's rules. Requests are not throttled: callers bound them.
func (f *workstationFlags) connect() (*rest.Config, *kube.Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: f.context}
	overrides.AuthInfo.Impersonate, overrides.AuthInfo.ImpersonateGroups = f.as, f.asGroups
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err) && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "":
		return nil, nil, fmt.Errorf("there is no kubeconfig at %s (from KUBECONFIG)", os.Getenv(clientcmd.RecommendedConfigPathEnvVar))
	case clientcmd.IsEmptyConfig(err):
		return nil, nil, errors.New("there is no kubeconfig: give --kubeconfig FILE or set KUBECONFIG")
	case err != nil:
		return nil, nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.QPS = -1
	config.UserAgent = "plainroute/" + version
	client, err := kube.New(config)
	return config, client, err
}

// clusterFlags are the flags of commands that query all agents.
type clusterFlags struct {
	workstationFlags
	rights   string        // the hint that follows a refusal; empty: the viewer's rights
	parallel int           // before register: another default than 32
	timeout  time.Duration // before register: another default than 5 s
}

func (f *clusterFlags) register(fs *pflag.FlagSet) {
	f.workstationFlags.register(fs)
	fs.IntVar(&f.parallel, "parallel", cmp.Or(f.parallel, 32), "number of agents to query at a time")
	fs.DurationVar(&f.timeout, "timeout", cmp.Or(f.timeout, 5*time.Second), "time limit for an agent's answer")
}

func (f *clusterFlags) check() []error {
	return []error{inRange("parallel", f.parallel, 1, 1000), atLeast("timeout", f.timeout, time.Millisecond)}
}

// collector returns a collector of the reports of all agents.
func (f *clusterFlags) collector(client *kube.Client, progress func(done, all int)) fleet.Collector {
	return fleet.Collector{Client: client, Namespace: f.namespace, Parallel: f.parallel, Timeout: f.timeout, Progress: progress}
}

var errInterrupted = errors.New("interrupted") // ends a command that the user interrupted

// hinted adds the rights that the command needs to a refusal, and shortens the error of an
// interruption.
func (f *clusterFlags) hinted(err error) error {
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	err = asUsage(err)
	var refusal *apierrors.StatusError
	if errors.As(err, &refusal) && apierrors.IsForbidden(err) {
		hint := cmp.Or(f.rights, "config/samples/viewer has the rights that the command needs")
		if details := refusal.ErrStatus.Details; f.namespace == "" && details != nil && details.Kind == "daemonsets" {
			hint += "; for agents outside kube-system and plainroute-system, give --namespace"
		}
		return fmt.Errorf("%w (%s)", err, hint)
	}
	return err
}

// asUsage makes a usage error of a choice that a flag must settle.
func asUsage(err error) error {
	if choice := (&fleet.ChoiceError{}); errors.As(err, &choice) {
		return usageError{err}
	}
	return err
}

// clusterStatus is status for all nodes.
func (f *statusFlags) clusterStatus(cmd *cobra.Command) error {
	config, client, err := f.connect()
	if err != nil {
		return err
	}
	p := newProgress(cmd.ErrOrStderr(), "querying agents")
	s := f.collector(client, p.show)
	s.Get = (&fleet.Forward{Config: config, Client: client}).Get
	cluster, err := s.Collect(cmd.Context())
	p.end()
	if err != nil {
		return f.hinted(err)
	}
	format := fleet.Format{Output: f.output, Problems: f.problems, Color: colorful(cmd.OutOrStdout())}
	return shown(cluster.OK(), cluster.Print(cmd.OutOrStdout(), format))
}
