//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/doctor"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// doctorFlags are the choices of the doctor command.
type doctorFlags struct {
	root       string
	procSys    string
	runDir     string
	cniConfDir string
	cniBinDir  string
	bridge     string
	kubeconfig string
	nodeName   string
	listen     string
	checks     []string
	list       bool
	verbose    bool
	output     string
}

// imagePlugins is where the image has the stock CNI plugins (hack/make-image.sh).
const imagePlugins = "/cni"

func doctorCommand() *cobra.Command {
	f := &doctorFlags{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with this node, and say what to do",
		Long: `doctor looks at the node that it runs on for what keeps pods from being served:
each finding is a fault, the evidence and the cure. It changes nothing.

In the agent's pod it sees most; what it can't see there it skips, and says how to
run it so that it can. --root is the folder of the host's files.

Exit codes: 0 no check failed (warnings there may be); 1 a check failed; 2 wrong
flags or arguments.`,
		Example: `  # In the agent's pod
  kubectl exec -n plainroute-system ds/plainroute -- /plainroute doctor

  # With all that there is on a node
  kubectl debug node/node1 -it --profile=sysadmin --image=localhost/plainroute:dev -- /plainroute doctor --root /host

  # One check, as JSON
  plainroute doctor --check forward-policy -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.root, "root", "/", "folder of the host's files; with kubectl debug node it is /host")
	fs.StringVar(&f.procSys, "proc-sys", "/proc/sys", "root of the kernel's settings")
	fs.StringVar(&f.runDir, "run-dir", "/run/plainroute", "folder of node-local state")
	fs.StringVar(&f.cniConfDir, "cni-conf-dir", "/etc/cni/net.d", "folder from which the container runtime reads CNI configs")
	fs.StringVar(&f.cniBinDir, "cni-bin-dir", "/opt/cni/bin", "folder of the CNI plugins")
	fs.StringVar(&f.bridge, "bridge", topology.Bridge, "name of the pods' bridge")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "file with the API server's address and credentials (default: those of the pod)")
	fs.StringVar(&f.nodeName, "node-name", "", "name of our own Node (default: $NODE_NAME)")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:9472", "address of this node's agent")
	fs.StringSliceVar(&f.checks, "check", nil, "run only these checks")
	fs.BoolVar(&f.list, "list", false, "list the checks")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "show all checks, the good ones too")
	fs.StringVarP(&f.output, "output", "o", "table", "table or json")
	offer(cmd, "output", "table", "json")
	offer(cmd, "check", checkNames()...)
	return cmd
}

func checkNames() []string {
	var names []string
	for _, c := range doctor.Checks() {
		names = append(names, c.Name)
	}
	return names
}

func (f *doctorFlags) run(cmd *cobra.Command) error {
	checks, err := f.validate(cmd)
	if err != nil {
		return err
	}
	if f.list {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(checkNames(), "\n"))
		return err
	}
	patient := f.patient(cmd.Context())
	if patient.Kernel != nil {
		defer patient.Kernel.Close()
	}
	found := doctor.Examine(cmd.Context(), patient, checks)
	if err := f.print(cmd.OutOrStdout(), found); err != nil {
		return err
	}
	if doctor.Worst(found) == doctor.Failure {
		return errShown
	}
	return nil
}

func (f *doctorFlags) validate(cmd *cobra.Command) ([]doctor.Check, error) {
	faults := append(environment(cmd.Flags()), checkBridge(f.bridge)...)
	for name, path := range map[string]*string{"cni-conf-dir": &f.cniConfDir, "run-dir": &f.runDir, "cni-bin-dir": &f.cniBinDir} {
		if !cmd.Flags().Changed(name) {
			*path = filepath.Join(f.root, *path)
		}
	}
	for _, err := range []error{
		checkListen("listen", f.listen), checkPath("root", f.root), checkPath("proc-sys", f.procSys), checkPath("run-dir", f.runDir),
		checkPath("cni-conf-dir", f.cniConfDir), checkPath("cni-bin-dir", f.cniBinDir),
	} {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if f.output != "table" && f.output != "json" {
		faults = append(faults, fmt.Errorf("--output: %q is neither table nor json", f.output))
	}
	checks := doctor.Checks()
	for _, name := range f.checks {
		if !slices.Contains(checkNames(), name) {
			faults = append(faults, fmt.Errorf("--check: there is no check %q; --list has them all", name))
		}
	}
	if len(f.checks) > 0 {
		checks = slices.DeleteFunc(checks, func(c doctor.Check) bool { return !slices.Contains(f.checks, c.Name) })
	}
	if f.nodeName == "" {
		f.nodeName = os.Getenv("NODE_NAME")
	}
	return checks, faultsError(faults)
}

// patient learns what it can; what it can't is for the checks to say.
func (f *doctorFlags) patient(ctx context.Context) *doctor.Patient {
	p := &doctor.Patient{
		Root: f.root, ProcSys: f.procSys, BinDir: f.cniBinDir, Offered: imagePlugins, Bridge: f.bridge, Node: f.nodeName,
		Store: cni.Store{ConfDir: f.cniConfDir, RunDir: f.runDir},
	}
	p.Report, p.ReportErr = askAgent(ctx, f.listen, 5*time.Second, true)
	if p.API, p.NodesErr = restConfig(f.kubeconfig); p.NodesErr == nil {
		p.Nodes, p.NodesErr = nodesOfCluster(ctx, p.API)
	}
	p.Host, p.State, p.KernelErr = f.look(ctx, p.Store)
	if inspector, err := dataplane.NewInspector(); err == nil {
		p.Kernel = inspector
	} else {
		p.KernelErr = errors.Join(p.KernelErr, err)
	}
	return p
}

func (f *doctorFlags) look(ctx context.Context, store cni.Store) (topology.Host, topology.State, error) {
	host, err := openHost(ctx, dataplane.Config{Bridge: f.bridge, ProcSys: f.procSys, ResolvConf: "/etc/resolv.conf", CNI: store})
	if err != nil {
		return topology.Host{}, topology.State{}, err
	}
	facts, state, err := host.Look(ctx)
	return facts, state, errors.Join(err, host.Close())
}

// nodesOfCluster asks the API server, with the agent's rights.
func nodesOfCluster(ctx context.Context, config *rest.Config) ([]corev1.Node, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("listing Nodes: %w", err)
	}
	return list.Items, nil
}

func (f *doctorFlags) print(w io.Writer, found []doctor.Finding) error {
	if f.output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(found)
	}
	var b strings.Builder
	count := map[doctor.Verdict]int{}
	for _, finding := range found {
		count[finding.Verdict]++
		if finding.Verdict == doctor.Failure || finding.Verdict == doctor.Warning || f.verbose {
			writeFinding(&b, finding, colourful(w))
		}
	}
	fmt.Fprintf(&b, "%d checks passed, %d failures, %d warnings, %d skipped (--verbose says why)\n", count[doctor.OK], count[doctor.Failure], count[doctor.Warning], count[doctor.Skipped])
	_, err := io.WriteString(w, b.String())
	return err
}

func writeFinding(b *strings.Builder, f doctor.Finding, colour bool) {
	verdict := string(f.Verdict)
	if colour {
		verdict = map[doctor.Verdict]string{
			doctor.Failure: "\x1b[31mfailure\x1b[0m", doctor.Warning: "\x1b[33mwarning\x1b[0m",
			doctor.OK: "\x1b[32mok\x1b[0m", doctor.Skipped: "skipped",
		}[f.Verdict]
	}
	fmt.Fprintf(b, "%s: %s", verdict, f.Check)
	if f.Fault != "" {
		b.WriteString(": " + status.Printable(f.Fault))
	}
	b.WriteString("\n")
	for _, part := range []struct{ name, text string }{{"evidence", f.Evidence}, {"cure", f.Cure}} {
		if part.text != "" {
			fmt.Fprintf(b, "  %s: %s\n", part.name, status.Printable(part.text))
		}
	}
}
