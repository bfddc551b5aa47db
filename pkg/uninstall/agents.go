package uninstall

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/fleet"
)

// agentLabels select the agents' DaemonSets and pods, whatever the chart's nameOverride is.
const agentLabels = partOfLabel + "=plainroute," + componentLabel + "=agent"

// agentDeletion bounds how long the garbage collector may take to find pods whose DaemonSet is
// gone.
const agentDeletion = time.Minute

// awaitAgents returns once the namespace has no DaemonSet of agents, and each of their pods is
// being deleted: on each node cleanup then waits until the agent has ended. It returns
// cleanup.ErrRefused at once for a DaemonSet that stays, because `kubectl apply` of a rendered
// chart creates it together with the hook's Job, and after within for a pod that stays.
func (u *Uninstall) awaitAgents(ctx context.Context, within time.Duration) error {
	var left *corev1.Pod
	err := wait.PollUntilContextTimeout(ctx, pollInterval, within, true, func(context.Context) (done bool, err error) {
		if err := u.refuseDaemonSets(ctx); err != nil {
			return false, err
		}
		notified := left != nil
		if left, err = u.runningAgent(ctx); left != nil && !notified {
			u.Notify("waiting until the agents' pods are deleted, such as %s on node %s", left.Name, left.Spec.NodeName)
		}
		return left == nil, err
	})
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	case left != nil && wait.Interrupted(err):
		return fmt.Errorf("%w: agents run that no DaemonSet controls, such as pod %s in namespace %s on node %s: "+
			"delete their pods, then run `plainroute uninstall` again", cleanup.ErrRefused, left.Name, u.Namespace, left.Spec.NodeName)
	}
	return err
}

// refuseDaemonSets returns cleanup.ErrRefused if a DaemonSet of agents is not being deleted. In a dry
// run agents may stay.
func (u *Uninstall) refuseDaemonSets(ctx context.Context) error {
	if u.DryRun {
		return nil
	}
	list, err := u.Client.DaemonSets(u.Namespace).List(ctx, metav1.ListOptions{LabelSelector: agentLabels})
	if err != nil {
		return fmt.Errorf("listing DaemonSets of agents: %w", err)
	}
	for i := range list.Items {
		if set := &list.Items[i]; set.DeletionTimestamp == nil {
			return fmt.Errorf("%w: DaemonSet %s in namespace %s runs agents, which restore what is removed. To uninstall, delete it first. "+
				"If the Job of the chart's post-delete hook was created by `helm template | kubectl apply`, delete that Job and "+
				"render with --no-hooks", cleanup.ErrRefused, set.Name, set.Namespace)
		}
	}
	return nil
}

// runningAgent returns an agent's pod that is not being deleted, or nil.
func (u *Uninstall) runningAgent(ctx context.Context) (*corev1.Pod, error) {
	var left *corev1.Pod
	err := fleet.Each(ctx, u.Client.Pods(u.Namespace).List, metav1.ListOptions{LabelSelector: agentLabels}, func(p *corev1.Pod) {
		if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			left = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Spec: corev1.PodSpec{NodeName: p.Spec.NodeName}}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing pods of agents: %w", err)
	}
	return left, nil
}
