package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/plainroute/plainroute/pkg/diagnosis"
	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/problem"
)

type doctorFlags struct {
	clusterFlags
	nodeDoctor
	node             *pflag.FlagSet // the flags for one node
	cluster, verbose bool
	checks           []string
	output           string
}

// doctorRights are more than a viewer's: a user who may run commands in an agent's pod may change its
// node's network.
const doctorRights = "doctor needs the rights to list Nodes, and in the agents' namespace to list daemonsets (apps) and pods and to create pods/exec: docs/operate.md"

func doctorCommand() *cobra.Command {
	f := &doctorFlags{node: pflag.NewFlagSet("node", pflag.ContinueOnError)}
	// A doctor takes seconds, and each queries the same peers, which limit the rate of their answers.
	f.rights, f.parallel, f.timeout = doctorRights, 16, 30*time.Second
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find the problems of this node or of all nodes, with their remediation",
		Long: `doctor checks this node for problems that keep pods from working, and prints each
problem with its evidence and remediation. It changes nothing.

Most checks work in the agent's pod. doctor skips those that don't, and prints how to
run it so that they do. --root is the folder of the host's files.

With --cluster it runs in the agents' pods on all nodes, from any workstation whose
kubeconfig may create pods/exec there, and prints a problem that nodes share once.

Exit codes: 0 no check found an error (there may be warnings); 1 a check did, or
with --cluster a node could not be examined; 2 wrong flags or arguments; 4 with
--cluster, the API server can't be reached.`,
		Example: `  # In the agent's pod
  kubectl exec -n plainroute-system ds/plainroute -- /plainroute doctor

  # With all host files, in a debugging pod
  kubectl debug node/node1 -it --profile=sysadmin --image=localhost/plainroute:0.1.0 -- /plainroute doctor --root /host

  # One check, as JSON
  plainroute doctor --check forward-policy -o json

  # All nodes, from a workstation
  plainroute doctor --cluster

  # All nodes, with every check of each
  plainroute doctor --cluster -o json`,
		Annotations: map[string]string{readOnly: ""},
		RunE:        f.run,
	}
	fs := cmd.Flags()
	f.clusterFlags.register(fs)
	fs.Lookup("kubeconfig").Usage = "file with the API server's address and credentials (default: those of the pod; with --cluster as kubectl, $KUBECONFIG or ~/.kube/config)"
	fs.BoolVar(&f.cluster, "cluster", false, "examine all nodes, by running doctor in their agents' pods")
	fs.StringSliceVar(&f.checks, "check", nil, "run only these checks")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "show all checks, also those that passed")
	chooseOutput(cmd, &f.output, "table")
	offer(cmd, "check", problem.Checks()...)
	f.registerNode(cmd)
	return cmd
}

func (f *doctorFlags) run(cmd *cobra.Command, _ []string) error {
	if !f.cluster || f.list {
		return f.ofNode(cmd)
	}
	errs := append(f.check(), checkFlag(cmd.Flags().Lookup("output"), f.output))
	f.node.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed {
			errs = append(errs, fmt.Errorf("--%s is for one node and can't be used with --cluster", flag.Name))
		}
	})
	if err := invalidFlags(errs...); err != nil {
		return err
	}
	return f.ofCluster(cmd)
}

func (f *doctorFlags) check() []error {
	errs := f.clusterFlags.check()
	for _, name := range f.checks {
		if !slices.Contains(problem.Checks(), name) {
			errs = append(errs, fmt.Errorf("--check: there is no check %q; there are %s", name, strings.Join(problem.Checks(), ", ")))
		}
	}
	return errs
}

func (f *doctorFlags) format(cmd *cobra.Command) diagnosis.Format {
	return diagnosis.Format{Output: f.output, Verbose: f.verbose, Color: colorful(cmd.OutOrStdout())}
}

// ofCluster runs doctor in the pods of all agents.
func (f *doctorFlags) ofCluster(cmd *cobra.Command) error {
	config, client, err := f.connect()
	if err != nil {
		return err
	}
	klog.SetLogger(logr.Discard()) // client-go logs connections to nodes that don't answer; the report has those
	p := newProgress(cmd.ErrOrStderr(), "examining nodes")
	cluster, err := f.examine(cmd.Context(), f.collector(client, p.show), &fleet.Exec{Config: config, Client: client})
	p.end()
	if err != nil {
		return f.hinted(err)
	}
	return shown(cluster.OK(), cluster.Print(cmd.OutOrStdout(), f.format(cmd)))
}

func (f *doctorFlags) examine(ctx context.Context, s fleet.Collector, exec *fleet.Exec) (*diagnosis.Cluster, error) {
	command := []string{"/plainroute", "doctor", "--output=json"}
	if len(f.checks) > 0 {
		command = append(command, "--check="+strings.Join(f.checks, ","))
	}
	reports := sync.Map{}
	rows, err := s.Visit(ctx, func(ctx context.Context, row *fleet.Row) error {
		output, err := exec.Run(ctx, row.Agent, command...)
		if err != nil {
			return err
		}
		var report diagnosis.Report
		if err := json.Unmarshal(output, &report); err != nil {
			return fmt.Errorf("reading the output of its doctor: %w", err)
		}
		reports.Store(row.Node, report)
		return nil
	})
	if err != nil {
		return nil, err
	}
	nodes := make([]diagnosis.Report, len(rows))
	for i, row := range rows {
		nodes[i] = diagnosis.Report{Problems: []problem.Problem{problem.New(row.NoReport, problem.Subject{}, "%s", row.Message)}, Passed: []string{}}
		if stored, ok := reports.Load(row.Node); ok && row.NoReport == "" {
			nodes[i], _ = stored.(diagnosis.Report)
		}
		nodes[i].Node = row.Node
	}
	return diagnosis.NewCluster(nodes), nil
}
