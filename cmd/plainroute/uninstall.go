package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/uninstall"
)

// uninstallFlags are the choices of the uninstall command.
type uninstallFlags struct {
	uninstall.Options
	nodeFlags
	kubeconfig string
	seLinux    map[string]string
	output     string
}

func uninstallCommand() *cobra.Command {
	f := &uninstallFlags{}
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Run cleanup on every node of the cluster, once the agents are gone",
		Long: `uninstall takes plainroute off all nodes: it makes a DaemonSet of pods that run
"plainroute cleanup --force", shows what each removed, removes the DaemonSet, and
deletes the condition NetworkUnavailable from the Nodes whose agents had set it.
It is what the Helm chart's post-delete hook runs. It does not delete the agents: it
refuses while a DaemonSet of theirs is in its namespace, or a pod of theirs that
nobody deletes, and so does each node on which an agent runs.

Drain the nodes first, or install the next network first: pods that are attached
keep their bridge, but nobody detaches them until another network takes over.

It needs these rights: in its namespace create, get, list and delete daemonsets (apps)
and list pods; in the cluster list nodes and patch nodes/status.

Exit codes: 0 all nodes are clean; 1 some are not, or it failed, and it can be
repeated; 2 wrong flags or arguments; 3 refused, because agents run.`,
		Example: `  # After the agents are gone, from a workstation
  plainroute uninstall --kubeconfig ~/.kube/config --image localhost/plainroute:0.1.0

  # What would go?
  plainroute uninstall --kubeconfig ~/.kube/config --image localhost/plainroute:0.1.0 --dry-run`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.register(cmd)
	return cmd
}

func (f *uninstallFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "file with the API server's address and credentials (default: those of the pod)")
	fs.StringVar(&f.Namespace, "namespace", "", "namespace for the DaemonSet, which must admit pods on the host's network (default: $POD_NAMESPACE, else plainroute-system)")
	fs.StringVar(&f.Image, "image", "", "plainroute's image (default: the one that runs this, in a pod that knows its $POD_NAME and $POD_UID)")
	fs.StringVar(&f.PullPolicy, "image-pull-policy", string(corev1.PullIfNotPresent), "Always, IfNotPresent or Never")
	fs.StringSliceVar(&f.PullSecrets, "image-pull-secret", nil, "secrets to pull the image with")
	fs.StringVar(&f.ServiceAccount, "service-account", "", "service account of the cleanup pods, which need no rights (default: the namespace's)")
	fs.StringVar(&f.PriorityClass, "priority-class", "system-node-critical", "priority class of the cleanup pods; empty: none")
	f.declare(fs, "cni-conf-dir", "run-dir", "bridge")
	fs.StringVar(&f.CNICacheDir, "cni-cache-dir", cni.CacheDir, "the hosts' folder where the container runtime keeps account of attached sandboxes")
	fs.BoolVar(&f.DACOverride, "dac-override", false, "give the cleanup pods CAP_DAC_OVERRIDE, where those folders are not root's")
	fs.StringToStringVar(&f.seLinux, "selinux-options", nil, "SELinux options of the cleanup pods: user, role, type, level")
	fs.BoolVar(&f.DryRun, "dry-run", false, "show what would be removed on each node, while agents run too, and change nothing")
	fs.DurationVar(&f.Timeout, "timeout", 3*time.Minute, "how long to wait after a node last got on")
	fs.StringVarP(&f.output, "output", "o", "table", "table or json")
	offer(cmd, "output", "table", "json")
}

func (f *uninstallFlags) run(cmd *cobra.Command) error {
	if err := f.validate(cmd); err != nil {
		return err
	}
	config, err := restConfig(f.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	if f.Image == "" {
		if f.Image, err = imageOf(cmd.Context(), client, f.Namespace, f.Owner.Name); err != nil {
			return err
		}
	}
	u := uninstall.Uninstall{Client: client, Options: f.Options, Notify: func(format string, args ...any) {
		fmt.Fprintln(cmd.ErrOrStderr(), text.Printable(fmt.Sprintf(format, args...)))
	}}
	rows, err := u.Run(cmd.Context())
	if rows == nil {
		return err
	}
	if f.output == "json" {
		return errors.Join(err, text.WriteJSON(cmd.OutOrStdout(), rows.Report()))
	}
	return errors.Join(err, rows.Print(cmd.OutOrStdout()))
}

// imageOf returns the image of a pod's first container. It lists, which is a right that an uninstall needs anyway.
func imageOf(ctx context.Context, client kubernetes.Interface, namespace, name string) (string, error) {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return "", fmt.Errorf("looking for the image that this runs: %w", err)
	}
	if len(pods.Items) == 0 {
		return "", fmt.Errorf("looking for the image that this runs: there is no pod %s in namespace %s; --image names it", name, namespace)
	}
	return pods.Items[0].Spec.Containers[0].Image, nil
}

func (f *uninstallFlags) validate(cmd *cobra.Command) error {
	faults := environment(cmd.Flags())
	f.whereWeAre()
	if f.Image == "" && f.Owner == nil {
		faults = append(faults, errors.New("--image is missing: the cleanup pods run plainroute's own"))
	}
	if !slices.Contains([]corev1.PullPolicy{corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever}, corev1.PullPolicy(f.PullPolicy)) {
		faults = append(faults, fmt.Errorf("--image-pull-policy: %q is none of Always, IfNotPresent, Never", f.PullPolicy))
	}
	f.CNIConfDir, f.RunDir, f.Bridge = f.cniConfDir, f.runDir, f.bridge
	faults = append(faults, f.wrong(cmd.Flags())...)
	for _, err := range []error{checkPath("cni-cache-dir", f.CNICacheDir), f.checkSELinux()} {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if f.Timeout <= 0 {
		faults = append(faults, fmt.Errorf("--timeout: %s is no time", f.Timeout))
	}
	if f.output != "table" && f.output != "json" {
		faults = append(faults, fmt.Errorf("--output: %q is neither table nor json", f.output))
	}
	return faultsError(faults)
}

// whereWeAre takes from the downward API what a pod is told of itself. The DaemonSet
// goes with that pod then, should this be killed.
func (f *uninstallFlags) whereWeAre() {
	namespace, name, uid := os.Getenv("POD_NAMESPACE"), os.Getenv("POD_NAME"), os.Getenv("POD_UID")
	if f.Namespace == "" {
		f.Namespace = namespace
	}
	if f.Namespace == "" {
		f.Namespace = "plainroute-system"
	}
	if name != "" && uid != "" && f.Namespace == namespace {
		f.Owner = &metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: types.UID(uid)}
	}
}

func (f *uninstallFlags) checkSELinux() error {
	if len(f.seLinux) == 0 {
		return nil
	}
	f.SELinux = &corev1.SELinuxOptions{}
	fields := map[string]*string{"user": &f.SELinux.User, "role": &f.SELinux.Role, "type": &f.SELinux.Type, "level": &f.SELinux.Level}
	for key, value := range f.seLinux {
		if fields[key] == nil {
			return fmt.Errorf("--selinux-options: %q is none of user, role, type, level", key)
		}
		*fields[key] = value
	}
	return nil
}

// stayCommand keeps a pod there that has done its work: a DaemonSet starts again
// what ends.
func stayCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stay", Short: "Wait for a signal", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			<-cmd.Context().Done()
			return nil
		},
	}
}
