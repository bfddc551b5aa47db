package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/plainroute/plainroute/pkg/diagnosis"
	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/problem"
)

// doctorFlags are the choices of the doctor command.
type doctorFlags struct {
	clusterFlags
	nodeDoctor
	// node are those of one node.
	node    *pflag.FlagSet
	cluster bool
	checks  []string
	verbose bool
	output  string
}

// doctorRights are more than a viewer's: who may run commands in an agent's pod may change its node's network.
const doctorRights = "doctor takes the rights to list Nodes, and in the agents' namespace to list daemonsets (apps) and pods and to create pods/exec: docs/operate.md"

func doctorCommand() *cobra.Command {
	f := &doctorFlags{clusterFlags: clusterFlags{rights: doctorRights}, node: pflag.NewFlagSet("node", pflag.ContinueOnError)}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with this node or all nodes, and say what to do",
		Long: `doctor looks at the node that it runs on for what keeps pods from being served:
each finding is a fault, the evidence and the cure. It changes nothing.

In the agent's pod it sees most; what it can't see there it skips, and says how to
run it so that it can. --root is the folder of the host's files.

With --cluster it runs in the agents' pods of all nodes, from any workstation whose
kubeconfig may create pods/exec there, and tells once what nodes share.

Exit codes: 0 no check found an error (there may be warnings); 1 a check did, or
with --cluster a node could not be examined; 2 wrong flags or arguments; 4 with
--cluster, the API server can't be asked.`,
		Example: `  # In the agent's pod
  kubectl exec -n plainroute-system ds/plainroute -- /plainroute doctor

  # With all that there is on a node
  kubectl debug node/node1 -it --profile=sysadmin --image=localhost/plainroute:0.1.0 -- /plainroute doctor --root /host

  # One check, as JSON
  plainroute doctor --check forward-policy -o json

  # All nodes, from a workstation
  plainroute doctor --cluster

  # All nodes, all that was found of each
  plainroute doctor --cluster -o json`,
		Annotations: map[string]string{readOnly: ""},
		Args:        noArgs,
		RunE:        func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.clusterFlags.register(fs)
	forDoctors(fs)
	fs.BoolVar(&f.cluster, "cluster", false, "examine all nodes, by the doctors of their agents' pods")
	fs.StringSliceVar(&f.checks, "check", nil, "run only these checks")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "show all checks, the good ones too")
	fs.StringVarP(&f.output, "output", "o", "table", "table or json")
	offer(cmd, "output", "table", "json")
	offer(cmd, "check", problem.Checks()...)
	f.registerNode(cmd)
	return cmd
}

// forDoctors sets what asking a doctor takes, who asks for seconds where an agent
// answers at once; and not too many at a time, for each of them asks the same peers,
// who ration their answers.
func forDoctors(fs *pflag.FlagSet) {
	for name, value := range map[string]string{"parallel": "16", "timeout": "30s"} {
		flag := fs.Lookup(name)
		if err := flag.Value.Set(value); err != nil {
			panic(err) // they take that
		}
		flag.DefValue = value
	}
	fs.Lookup("kubeconfig").Usage = "file with the API server's address and credentials (default: those of the pod; with --cluster as kubectl, $KUBECONFIG or ~/.kube/config)"
}

func (f *doctorFlags) run(cmd *cobra.Command) error {
	if !f.cluster || f.list {
		return f.ofNode(cmd)
	}
	faults := f.faults()
	f.node.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed {
			faults = append(faults, fmt.Errorf("--%s is for one node, not for --cluster", flag.Name))
		}
	})
	if err := faultsError(faults); err != nil {
		return err
	}
	return f.ofCluster(cmd)
}

func (f *doctorFlags) faults() []error {
	faults := f.clusterFlags.faults()
	if f.output != "table" && f.output != "json" {
		faults = append(faults, fmt.Errorf("--output: %q is neither table nor json", f.output))
	}
	for _, name := range f.checks {
		if !slices.Contains(problem.Checks(), name) {
			faults = append(faults, fmt.Errorf("--check: there is no check %q; there are %s", name, strings.Join(problem.Checks(), ", ")))
		}
	}
	return faults
}

func (f *doctorFlags) format(cmd *cobra.Command) diagnosis.Format {
	return diagnosis.Format{Output: f.output, Verbose: f.verbose, Color: colourful(cmd.OutOrStdout())}
}

// ofCluster has the doctors of all agents' pods examine their nodes.
func (f *doctorFlags) ofCluster(cmd *cobra.Command) error {
	config, client, err := f.connect()
	if err != nil {
		return err
	}
	klog.SetLogger(logr.Discard()) // client-go complains of connections to nodes that don't answer; it is told of those below
	p := newProgress(cmd.ErrOrStderr(), "examining nodes")
	s := fleet.Collector{Client: client, Namespace: f.namespace, Parallel: f.parallel, Timeout: f.timeout, Progress: p.show}
	cluster, err := f.examine(cmd.Context(), s, &fleet.Exec{Config: config, Client: client})
	p.end()
	if err != nil {
		return f.hinted(err)
	}
	if err := cluster.Print(cmd.OutOrStdout(), f.format(cmd)); err != nil {
		return err
	}
	if !cluster.OK() {
		return errShown
	}
	return nil
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
