package nodelab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/test/testutil"
)

// Kubelets play the controller-manager's and the kubelets' part for DaemonSets of a namespace whose
// pods do their work in an init container: they run its arguments, on the node, as they stand, with
// the host's folders where they are mounted. They ignore other DaemonSets.
type Kubelets struct {
	Cluster   *Cluster
	Namespace string
	// Nodes are those that have a kubelet.
	Nodes []*Node
	// Change may change the arguments of an agent before it starts.
	Change func(node *Node, args []string) []string
}

// Run plays until ctx ends.
func (k *Kubelets) Run(ctx context.Context) error {
	var running []chan error
	for ctx.Err() == nil {
		sets, err := k.Cluster.Client().AppsV1().DaemonSets(k.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			break
		}
		for i := range sets.Items {
			if len(sets.Items[i].Spec.Template.Spec.InitContainers) == 0 {
				continue // agents, say
			}
			started, err := k.play(ctx, &sets.Items[i])
			if err != nil {
				return err
			}
			running = append(running, started...)
		}
		_ = testutil.Pause(ctx, 50*time.Millisecond)
	}
	var faults []error
	for _, done := range running {
		faults = append(faults, <-done)
	}
	return errors.Join(faults...)
}

// play makes the pods that a DaemonSet lacks, or removes it when it is being deleted.
func (k *Kubelets) play(ctx context.Context, set *appsv1.DaemonSet) ([]chan error, error) {
	if set.DeletionTimestamp != nil {
		return nil, k.bury(ctx, set)
	}
	var running []chan error
	for _, node := range k.Nodes {
		pod := &corev1.Pod{ObjectMeta: *set.Spec.Template.ObjectMeta.DeepCopy(), Spec: *set.Spec.Template.Spec.DeepCopy()}
		pod.Name, pod.Spec.NodeName = podName(set, node), node.Name
		pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
		made, err := k.Cluster.Client().CoreV1().Pods(k.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return running, fmt.Errorf("making a pod: %w", err)
		}
		done := make(chan error, 1)
		running = append(running, done)
		go func() { done <- k.start(ctx, node, made) }()
	}
	return running, nil
}

func podName(set *appsv1.DaemonSet, node *Node) string { return set.Name + "-" + node.Name }

// bury deletes the pods, then the object whose foreground deletion waits for them.
func (k *Kubelets) bury(ctx context.Context, set *appsv1.DaemonSet) error {
	now := int64(0)
	pods := k.Cluster.Client().CoreV1().Pods(k.Namespace)
	for _, node := range k.Nodes {
		err := pods.Delete(ctx, podName(set, node), metav1.DeleteOptions{GracePeriodSeconds: &now})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting a pod: %w", err)
		}
	}
	set.Finalizers = nil
	_, err := k.Cluster.Client().AppsV1().DaemonSets(k.Namespace).Update(ctx, set, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("letting a DaemonSet go: %w", err)
	}
	return nil
}

// start runs the pod's init container and writes the result into the pod's status, as a kubelet does.
func (k *Kubelets) start(ctx context.Context, node *Node, pod *corev1.Pod) error {
	init := pod.Spec.InitContainers[0]
	state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
	pod, err := k.report(ctx, pod, init.Name, state)
	if err != nil {
		return err
	}
	message := filepath.Join(node.dir, "termination-log")
	done, err := node.Plainroute(ctx, k.args(node, init, message)...)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(message)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("reading the termination message of %v: %w\n%s", init.Args, err, done.Stderr)
	}
	const longest = 4096 // of kubelet's MaxContainerTerminationMessageLength
	state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: int32(done.Code), Reason: "Completed", Message: string(content[:min(len(content), longest)]),
	}}
	_, err = k.report(ctx, pod, init.Name, state)
	return err
}

// args replaces the pod's mounts by the node's own folders.
func (k *Kubelets) args(node *Node, init corev1.Container, message string) []string {
	args := slices.Clone(init.Args)
	for i, arg := range args {
		arg = strings.Replace(arg, "=/run/plainroute", "="+node.RunDir, 1)
		arg = strings.Replace(arg, "=/etc/cni/net.d", "="+node.ConfDir, 1)
		arg = strings.Replace(arg, "="+cni.CacheDir, "="+node.cacheDir(), 1)
		args[i] = strings.Replace(arg, "="+init.TerminationMessagePath, "="+message, 1)
	}
	if k.Change != nil {
		args = k.Change(node, args)
	}
	return args
}

func (k *Kubelets) report(ctx context.Context, pod *corev1.Pod, name string, state corev1.ContainerState) (*corev1.Pod, error) {
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: name, State: state}}
	pod, err := k.Cluster.Client().CoreV1().Pods(k.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		return pod, fmt.Errorf("writing a pod's status: %w", err)
	}
	return pod, nil
}
