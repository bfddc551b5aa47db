// Package uninstall removes plainroute from all nodes of a cluster: a DaemonSet runs `plainroute
// cleanup` on each, and the results become one table.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/kube"
)

// Uninstall is one run.
type Uninstall struct {
	Client *kube.Client
	Options
	// Notify reports the progress to the user, a line at a time.
	Notify func(format string, args ...any)
}

// Run cleans all nodes and returns a row for each. With rows, the error describes what is left to
// do. The DaemonSet is always removed, even if ctx ends. It returns cleanup.ErrRefused while agents
// run, or if they come back.
func (u *Uninstall) Run(ctx context.Context) (Rows, error) {
	if !u.DryRun {
		if err := u.awaitAgents(ctx, agentDeletion); err != nil {
			return nil, err
		}
	}
	nodes, err := u.nodes(ctx)
	if err != nil {
		return nil, err
	}
	set, err := u.create(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := u.follow(ctx, set, nodes)
	err = errors.Join(err, u.remove(ctx, set))
	switch {
	case ctx.Err() != nil:
		return rows, errors.Join(fmt.Errorf("interrupted: %w", context.Cause(ctx)), err, rows.err(""))
	case errors.Is(err, cleanup.ErrRefused):
		return rows, err // agents are back, and set the condition
	}
	return rows, errors.Join(err, u.deleteConditions(ctx), rows.err(u.agents(ctx, rows)))
}

// nodes returns the Nodes that get a pod, reduced to the fields that reason uses.
func (u *Uninstall) nodes(ctx context.Context) (map[string]*corev1.Node, error) {
	nodes := map[string]*corev1.Node{}
	err := fleet.Each(ctx, u.Client.Nodes().List, metav1.ListOptions{}, func(n *corev1.Node) {
		if isReal(n) {
			nodes[n.Name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}}
			nodes[n.Name].Status.Conditions = n.Status.Conditions
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing Nodes: %w", err)
	}
	return nodes, nil
}

// agents names the releases whose agents made nodes refuse, as far as the rights of this program
// allow.
func (u *Uninstall) agents(ctx context.Context, rows Rows) string {
	if !slices.ContainsFunc(rows, Row.refused) {
		return ""
	}
	for _, namespace := range []string{metav1.NamespaceAll, u.Namespace} {
		list, err := u.Client.DaemonSets(namespace).List(ctx, metav1.ListOptions{LabelSelector: agentLabels})
		if err != nil {
			continue
		}
		var names []string
		for i := range list.Items {
			set := &list.Items[i]
			name := fmt.Sprintf("DaemonSet %s in namespace %s", set.Name, set.Namespace)
			if release := set.Labels[instanceLabel]; release != "" {
				name = fmt.Sprintf("release %s (%s)", release, name)
			}
			names = append(names, name)
		}
		return strings.Join(names, ", ")
	}
	return ""
}

// create creates the DaemonSet, and deletes that of an earlier run that was killed. The new one has
// another name, because the old one exists until its pods on unresponsive nodes are gone.
func (u *Uninstall) create(ctx context.Context) (*appsv1.DaemonSet, error) {
	sets := u.Client.DaemonSets(u.Namespace)
	old, err := sets.List(ctx, metav1.ListOptions{LabelSelector: selector()})
	if err != nil {
		return nil, fmt.Errorf("listing DaemonSets of earlier runs: %w", err)
	}
	for i := range old.Items {
		if set := &old.Items[i]; set.DeletionTimestamp == nil {
			u.Notify("removing DaemonSet %s of an earlier run", set.Name)
			if err := u.delete(ctx, set); err != nil {
				return nil, err
			}
		}
	}
	// Without a timeout of its own, an interrupted call may leave a DaemonSet behind.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	set, err := sets.Create(ctx, u.daemonSet(), metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("creating DaemonSet %s: %w", Name, err)
	}
	return set, nil
}

// delete deletes the DaemonSet once its pods are gone.
func (u *Uninstall) delete(ctx context.Context, set *appsv1.DaemonSet) error {
	err := u.Client.DaemonSets(u.Namespace).Delete(ctx, set.Name, metav1.DeleteOptions{
		PropagationPolicy: new(metav1.DeletePropagationForeground), Preconditions: &metav1.Preconditions{UID: &set.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("removing DaemonSet %s: %w; delete it by hand", set.Name, err)
	}
	return nil
}

const (
	// removal bounds the deletion of the DaemonSet, even after ctx has ended: a pod has 30 s then.
	removal      = 20 * time.Second
	pollInterval = time.Second
	// perNode slows polling down in large clusters, because a list of all pods takes megabytes.
	perNode = time.Millisecond
)

// remove deletes the DaemonSet with its pods, and waits until they are gone. Those on unresponsive
// nodes stay with their Node, which is not an error.
func (u *Uninstall) remove(ctx context.Context, set *appsv1.DaemonSet) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	if err := u.delete(ctx, set); err != nil {
		return err
	}
	err := wait.PollUntilContextCancel(ctx, pollInterval/4, true, func(ctx context.Context) (bool, error) {
		_, err := u.Client.DaemonSets(u.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	if err != nil {
		u.Notify("DaemonSet %s is deleted with its last pod, on a node that does not answer", set.Name)
	}
	return nil
}

// follow watches the pods until each node is clean, or there is no progress for too long.
func (u *Uninstall) follow(ctx context.Context, set *appsv1.DaemonSet, nodes map[string]*corev1.Node) (Rows, error) {
	f := newTracker(u, nodes)
	u.Notify("cleaning %d nodes", len(nodes))
	var failed error
	interval := pollInterval + time.Duration(len(nodes))*perNode
	err := wait.PollUntilContextCancel(ctx, interval, true, func(context.Context) (done bool, err error) {
		var pods map[string]*corev1.Pod
		if err = u.refuseDaemonSets(ctx); err == nil {
			pods, err = u.pods(ctx, set)
		}
		switch {
		case errors.Is(err, cleanup.ErrRefused):
			return false, err
		case err == nil:
			f.update(pods)
		case fmt.Sprint(err) != fmt.Sprint(failed) && ctx.Err() == nil:
			u.Notify("%v; trying again", err)
		}
		failed = err
		return f.left() == 0 || time.Since(f.progress) > u.Timeout, nil
	})
	f.interrupted = f.left() > 0 && (err != nil || ctx.Err() != nil)
	switch {
	case errors.Is(err, cleanup.ErrRefused):
		return f.rows(nodes), err
	case f.left() == 0 || f.interrupted:
		return f.rows(nodes), nil
	}
	now, err := u.nodes(ctx)
	if err == nil {
		nodes = now
	}
	return f.rows(nodes), errors.Join(failed, err)
}

// pods returns those of the DaemonSet by node, reduced to the fields that tracker uses.
func (u *Uninstall) pods(ctx context.Context, set *appsv1.DaemonSet) (map[string]*corev1.Pod, error) {
	pods := map[string]*corev1.Pod{}
	err := fleet.Each(ctx, u.Client.Pods(u.Namespace).List, metav1.ListOptions{LabelSelector: selector()}, func(p *corev1.Pod) {
		if metav1.IsControlledBy(p, set) {
			pods[nodeOf(p)] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Status: p.Status}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of DaemonSet %s: %w", Name, err)
	}
	return pods, nil
}

// nodeOf returns the node that a pod is on or assigned to: a DaemonSet's pod names it before it is
// scheduled (ReplaceDaemonSetPodNodeNameNodeAffinity of
// k8s.io/kubernetes/pkg/controller/daemon/util).
func nodeOf(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}
