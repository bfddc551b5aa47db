// Package uninstall takes plainroute off all nodes of a cluster: a DaemonSet has
// `plainroute cleanup` run on each, and what each says becomes one table.
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
	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/fleet"
)

// Uninstall is one run of it.
type Uninstall struct {
	Client kubernetes.Interface
	Options
	// Say tells a person how it is getting on, a line at a time.
	Say func(format string, args ...any)
}

// Run cleans all nodes and returns a row for each. The error, if rows came, says
// what is left to do. The DaemonSet is removed whatever happens, when ctx ends too.
// It returns cleanup.ErrRefused while agents run, also where they come back meanwhile.
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
		return rows, err // agents are back, and keep the condition
	}
	return rows, errors.Join(err, u.deleteConditions(ctx), rows.err(u.agents(ctx, rows)))
}

// nodes returns those that get a pod, as far as is needed to say why one is not clean.
func (u *Uninstall) nodes(ctx context.Context) (map[string]*corev1.Node, error) {
	nodes := map[string]*corev1.Node{}
	err := fleet.Each(ctx, u.Client.CoreV1().Nodes().List, metav1.ListOptions{}, func(n *corev1.Node) {
		if isReal(n) {
			nodes[n.Name] = &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels},
				Status:     corev1.NodeStatus{Conditions: n.Status.Conditions},
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing Nodes: %w", err)
	}
	return nodes, nil
}

// agents names the releases whose agents made nodes refuse, as far as it may look: who
// uninstalls need not have the right to see other namespaces.
func (u *Uninstall) agents(ctx context.Context, rows Rows) string {
	if !slices.ContainsFunc(rows, Row.refused) {
		return ""
	}
	for _, namespace := range []string{metav1.NamespaceAll, u.Namespace} {
		list, err := u.Client.AppsV1().DaemonSets(namespace).List(ctx, metav1.ListOptions{LabelSelector: agentLabels})
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

// create makes the DaemonSet. One that a killed run left goes; it has another name, for
// it can't be gone before its pods on nodes that don't answer are.
func (u *Uninstall) create(ctx context.Context) (*appsv1.DaemonSet, error) {
	sets := u.Client.AppsV1().DaemonSets(u.Namespace)
	old, err := sets.List(ctx, metav1.ListOptions{LabelSelector: selector()})
	if err != nil {
		return nil, fmt.Errorf("looking for DaemonSets of runs that did not end: %w", err)
	}
	for i := range old.Items {
		if old.Items[i].DeletionTimestamp != nil {
			continue
		}
		u.Say("removing DaemonSet %s of a run that did not end", old.Items[i].Name)
		if err := u.delete(ctx, &old.Items[i]); err != nil {
			return nil, err
		}
	}
	// Nobody would know whether a call that is cut off has made one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	set, err := sets.Create(ctx, u.daemonSet(), metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("making DaemonSet %s: %w", Name, err)
	}
	return set, nil
}

// delete has the DaemonSet go once its pods are gone.
func (u *Uninstall) delete(ctx context.Context, set *appsv1.DaemonSet) error {
	foreground := metav1.DeletePropagationForeground
	err := u.Client.AppsV1().DaemonSets(u.Namespace).Delete(ctx, set.Name, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: &metav1.Preconditions{UID: &set.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("removing DaemonSet %s: %w; delete it by hand", set.Name, err)
	}
	return nil
}

const (
	// removal is how long the DaemonSet may take to go, after ctx has ended too: a pod
	// has 30 s then.
	removal      = 20 * time.Second
	pollInterval = time.Second
	// perNode makes polls rarer in large clusters: a list of all pods is megabytes.
	perNode = time.Millisecond
)

// remove deletes the DaemonSet with its pods, and waits until they are gone. Those on
// nodes that don't answer stay until their Node does, which is no fault.
func (u *Uninstall) remove(ctx context.Context, set *appsv1.DaemonSet) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	if err := u.delete(ctx, set); err != nil {
		return err
	}
	for {
		_, err := u.Client.AppsV1().DaemonSets(u.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			u.Say("DaemonSet %s goes as soon as its last pod does, on a node that does not answer", set.Name)
			return nil
		case <-time.After(pollInterval / 4):
		}
	}
}

// follow looks at the pods until each node is clean, or none has got on for too long.
func (u *Uninstall) follow(ctx context.Context, set *appsv1.DaemonSet, nodes map[string]*corev1.Node) (Rows, error) {
	f := newFollower(u, nodes)
	u.Say("cleaning %d nodes", len(nodes))
	var failed error
	for {
		pods, err := u.look(ctx, set)
		if errors.Is(err, cleanup.ErrRefused) {
			f.interrupted = true
			return f.rows(nodes), err
		}
		if err != nil && fmt.Sprint(err) != fmt.Sprint(failed) && ctx.Err() == nil {
			u.Say("%v; trying again", err)
		}
		if failed = err; err == nil {
			f.see(pods)
		}
		if f.left() == 0 {
			return f.rows(nodes), nil
		}
		if time.Since(f.progress) > u.Timeout || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(pollInterval + time.Duration(len(nodes))*perNode):
		case <-ctx.Done():
		}
	}
	if f.interrupted = ctx.Err() != nil; f.interrupted {
		return f.rows(nodes), nil
	}
	now, err := u.nodes(ctx)
	if err == nil {
		nodes = now
	}
	return f.rows(nodes), errors.Join(failed, err)
}

// look returns the pods that clean, and cleanup.ErrRefused if there are agents again.
func (u *Uninstall) look(ctx context.Context, set *appsv1.DaemonSet) (map[string]*corev1.Pod, error) {
	if !u.DryRun {
		if err := u.refuseDaemonSets(ctx); err != nil {
			return nil, err
		}
	}
	return u.pods(ctx, set)
}

// pods returns those of the DaemonSet by their node, as far as is needed to follow them.
func (u *Uninstall) pods(ctx context.Context, set *appsv1.DaemonSet) (map[string]*corev1.Pod, error) {
	pods := map[string]*corev1.Pod{}
	err := fleet.Each(ctx, u.Client.CoreV1().Pods(u.Namespace).List, metav1.ListOptions{LabelSelector: selector()}, func(p *corev1.Pod) {
		if metav1.IsControlledBy(p, set) {
			pods[nodeOf(p)] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Status: p.Status}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of DaemonSet %s: %w", Name, err)
	}
	return pods, nil
}

// nodeOf returns the node that a pod is on or meant for: a DaemonSet's pod names it
// before it is scheduled (ReplaceDaemonSetPodNodeNameNodeAffinity of
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
