package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/uninstall"
)

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
		Long: `uninstall removes plainroute from all nodes: it creates a DaemonSet of pods that run
"plainroute cleanup --force", prints what each removed, deletes the DaemonSet, and
deletes the condition NetworkUnavailable from the Nodes whose agents had set it.
The Helm chart's post-delete hook runs it. It does not delete the agents: it refuses
while their DaemonSet, or a pod of theirs that is not being deleted, is in its
namespace, and so does each node on which an agent runs.

Drain the nodes first, or install the next network first: attached pods keep their
bridge, but stay attached until another network takes over.

It needs these rights: in its namespace create, get, list and delete daemonsets (apps)
and list pods; in the cluster list nodes and patch nodes/status.

Exit codes: 0 all nodes are clean; 1 some are not, or it failed, and it can be
repeated; 2 wrong flags or arguments; 3 refused, because agents run.`,
		Example: `  # Once the agents are gone, from a workstation
  plainroute uninstall --kubeconfig ~/.kube/config --image localhost/plainroute:0.1.0

  # Show what would be removed
  plainroute uninstall --kubeconfig ~/.kube/config --image localhost/plainroute:0.1.0 --dry-run`,
		RunE: f.run,
	}
	f.register(cmd)
	return cmd
}

func (f *uninstallFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "file with the API server's address and credentials (default: those of the pod)")
	fs.StringVar(&f.Namespace, "namespace", "", "namespace for the DaemonSet, which must admit pods on the host's network (default: $POD_NAMESPACE, else plainroute-system)")
	fs.StringVar(&f.Image, "image", "", "plainroute's image (default: that of this pod, if $POD_NAME and $POD_UID are set)")
	choose(cmd, &f.PullPolicy, "image-pull-policy", "", "Always, IfNotPresent or Never", string(corev1.PullIfNotPresent), string(corev1.PullAlways), string(corev1.PullNever))
	fs.StringSliceVar(&f.PullSecrets, "image-pull-secret", nil, "secrets for pulling the image")
	fs.StringVar(&f.ServiceAccount, "service-account", "", "service account of the cleanup pods, which need no rights (default: the namespace's)")
	fs.StringVar(&f.PriorityClass, "priority-class", "system-node-critical", "priority class of the cleanup pods; empty: none")
	f.declare(fs, "cni-conf-dir", "run-dir", "bridge")
	fs.StringVar(&f.CNICacheDir, "cni-cache-dir", cni.CacheDir, "the hosts' folder in which the container runtime records attached sandboxes")
	fs.BoolVar(&f.DACOverride, "dac-override", false, "give the cleanup pods CAP_DAC_OVERRIDE, if those folders don't belong to root")
	fs.StringToStringVar(&f.seLinux, "selinux-options", nil, "SELinux options of the cleanup pods: user, role, type, level")
	fs.BoolVar(&f.DryRun, "dry-run", false, "show what would be removed on each node, while agents run too, and change nothing")
	fs.DurationVar(&f.Timeout, "timeout", 3*time.Minute, "time limit without progress of any node")
	chooseOutput(cmd, &f.output, "table")
}

func (f *uninstallFlags) run(cmd *cobra.Command, _ []string) error {
	if err := f.validate(cmd); err != nil {
		return err
	}
	client, err := clientOf(f.kubeconfig)
	if err != nil {
		return err
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
	return errors.Join(err, write(cmd.OutOrStdout(), f.output, rows.Report()))
}

// imageOf returns the image of a pod's first container. It lists pods, a right that uninstall has.
func imageOf(ctx context.Context, client *kube.Client, namespace, name string) (string, error) {
	pods, err := client.Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return "", fmt.Errorf("looking for this pod's image: %w", err)
	}
	if len(pods.Items) == 0 {
		return "", fmt.Errorf("looking for this pod's image: namespace %s has no pod %s; name the image with --image", namespace, name)
	}
	return pods.Items[0].Spec.Containers[0].Image, nil
}

func (f *uninstallFlags) validate(cmd *cobra.Command) error {
	errs := append(environment(cmd.Flags()), checkFlags(cmd.Flags())...)
	f.downwardAPI()
	if f.Image == "" && f.Owner == nil {
		errs = append(errs, errors.New("--image is missing: the cleanup pods run plainroute's image"))
	}
	f.CNIConfDir, f.RunDir, f.Bridge = f.cniConfDir, f.runDir, f.bridge
	return invalidFlags(append(errs, f.checkSELinux(), atLeast("timeout", f.Timeout, time.Millisecond))...)
}

// downwardAPI sets the namespace and the owner of the DaemonSet from the downward API. Kubernetes
// deletes the DaemonSet with its owner, this pod, if that is killed.
func (f *uninstallFlags) downwardAPI() {
	namespace, name, uid := os.Getenv("POD_NAMESPACE"), os.Getenv("POD_NAME"), os.Getenv("POD_UID")
	f.Namespace = cmp.Or(f.Namespace, namespace, "plainroute-system")
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
			return fmt.Errorf("--selinux-options: %q is not one of user, role, type, level", key)
		}
		*fields[key] = value
	}
	return nil
}

// stayCommand keeps a pod running that has done its work, because a DaemonSet restarts a container that
// ends.
func stayCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stay", Short: "Wait for a signal", Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			<-cmd.Context().Done()
			return nil
		},
	}
}
