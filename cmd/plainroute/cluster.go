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
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the ways to log in that kubectl knows
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/pkg/fleet"
)

// workstationFlags are what commands take that speak to a cluster as kubectl does.
type workstationFlags struct {
	kubeconfig string
	context    string
	namespace  string
	as         string
	asGroups   []string
}

func (f *workstationFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "file with the API server's address and credentials (default: as kubectl, $KUBECONFIG or ~/.kube/config)")
	fs.StringVar(&f.context, "context", "", "context of the kubeconfig (default: the current one)")
	fs.StringVarP(&f.namespace, "namespace", "n", "", "namespace of the agents (default: kube-system or plainroute-system, whichever has their DaemonSet)")
	fs.StringVar(&f.as, "as", "", "user to be for the API server, if you may impersonate; a ServiceAccount is system:serviceaccount:NAMESPACE:NAME")
	fs.StringArrayVar(&f.asGroups, "as-group", nil, "group to be in for the API server; may be given more than once")
}

// connect reads the kubeconfig by kubectl's rules. Requests are not throttled: who asks bounds them.
func (f *workstationFlags) connect() (*rest.Config, *kubernetes.Clientset, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: f.context}
	overrides.AuthInfo.Impersonate, overrides.AuthInfo.ImpersonateGroups = f.as, f.asGroups
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err) && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "":
		return nil, nil, fmt.Errorf("there is no kubeconfig at %s, which KUBECONFIG names", os.Getenv(clientcmd.RecommendedConfigPathEnvVar))
	case clientcmd.IsEmptyConfig(err):
		return nil, nil, errors.New("there is no kubeconfig: give --kubeconfig FILE or set KUBECONFIG")
	case err != nil:
		return nil, nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.QPS = -1
	config.UserAgent = "plainroute/" + version
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("making a client: %w", err)
	}
	return config, client, nil
}

// clusterFlags are the choices of commands that ask all agents.
type clusterFlags struct {
	workstationFlags
	// rights says which rights it takes; empty: those of the viewer.
	rights   string
	parallel int
	timeout  time.Duration
}

func (f *clusterFlags) register(fs *pflag.FlagSet) {
	f.workstationFlags.register(fs)
	fs.IntVar(&f.parallel, "parallel", 32, "how many agents are asked at a time")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long an agent may take to answer")
}

func (f *clusterFlags) faults() []error {
	var faults []error
	if f.parallel < 1 || f.parallel > 1000 {
		faults = append(faults, fmt.Errorf("--parallel: %d is not between 1 and 1000", f.parallel))
	}
	if f.timeout <= 0 {
		faults = append(faults, fmt.Errorf("--timeout: %s is no time to answer in", f.timeout))
	}
	return faults
}

// collect returns the fleet status, and shows its progress.
func (f *clusterFlags) collect(cmd *cobra.Command) (*fleet.Cluster, error) {
	if err := faultsError(f.faults()); err != nil {
		return nil, err
	}
	config, client, err := f.connect()
	if err != nil {
		return nil, err
	}
	p := newProgress(cmd.ErrOrStderr(), "asking agents")
	defer p.end()
	forward := &fleet.Forward{Config: config, Client: client}
	s := fleet.Collector{
		Client: client, Get: forward.Get, Namespace: f.namespace,
		Parallel: f.parallel, Timeout: f.timeout, Progress: p.show,
	}
	cluster, err := s.Collect(cmd.Context())
	return cluster, f.hinted(err)
}

// errInterrupted ends a command that somebody did not wait for.
var errInterrupted = errors.New("interrupted")

// hinted says which rights it takes where one is missing, and of an interruption no more than that it was one.
func (f *clusterFlags) hinted(err error) error {
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	err = asUsage(err)
	var refusal *apierrors.StatusError
	if errors.As(err, &refusal) && apierrors.IsForbidden(err) {
		hint := cmp.Or(f.rights, "config/samples/viewer has all the rights that it takes")
		if details := refusal.ErrStatus.Details; f.namespace == "" && details != nil && details.Kind == "daemonsets" {
			hint += "; agents in another namespace than kube-system and plainroute-system take --namespace"
		}
		return fmt.Errorf("%w (%s)", err, hint)
	}
	return err
}

// asUsage makes a wrong use of what a flag settles.
func asUsage(err error) error {
	if choice := (&fleet.ChoiceError{}); errors.As(err, &choice) {
		return usageError{err}
	}
	return err
}

// clusterStatus is status for all nodes.
func clusterStatus(cmd *cobra.Command, f *clusterFlags, format fleet.Format) error {
	cluster, err := f.collect(cmd)
	if err != nil {
		return err
	}
	format.Color = colourful(cmd.OutOrStdout())
	if err := cluster.Print(cmd.OutOrStdout(), format); err != nil {
		return err
	}
	if !cluster.OK() {
		return errShown
	}
	return nil
}
