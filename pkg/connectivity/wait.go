package connectivity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
)

// RefusalTimeout is how long pods may be refused, because a registry may fail for a moment.
const RefusalTimeout = 15 * time.Second

// refreshInterval is how often Nodes and Events are listed meanwhile.
const refreshInterval = 3 * time.Second

// podWait waits for the pods.
type podWait struct {
	*Run
	namespace string
	nodes     []corev1.Node
	pods      []corev1.Pod
	refusal   string               // why the API server rejects pods
	blocked   map[string]time.Time // by node: since when its pods need an operator
	refreshed time.Time
}

// wait returns the pods once they are ready, and a Problem for each node without ready pods. It
// does not wait for nodes that are NotReady, nor long for those that refuse the pods.
func (r *Run) wait(ctx context.Context, namespace string, nodes []corev1.Node) ([]corev1.Pod, []problem.Problem, error) {
	limited, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	w := &podWait{Run: r, namespace: namespace, nodes: nodes, blocked: map[string]time.Time{}, refreshed: time.Now()}
	err := poll(limited, r.RetryBudget, w.done)
	var outage *outageError
	if ctx.Err() != nil || errors.As(err, &outage) {
		return nil, nil, fmt.Errorf("waiting for the test's pods: %w", err)
	}
	return w.ready(ctx)
}

// done reports whether no more pods are worth waiting for.
func (w *podWait) done(ctx context.Context) (bool, error) {
	list, err := w.Client.Pods(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: nameLabel + "=" + managedBy})
	if err != nil {
		return false, err
	}
	w.pods = list.Items
	if time.Since(w.refreshed) > refreshInterval {
		if err := w.refresh(ctx); err != nil {
			return false, err
		}
		w.refreshed = time.Now()
	}
	ready, expected := 0, 0
	for i, s := range w.statuses() {
		node := w.nodes[i].Name
		if !s.blocked {
			delete(w.blocked, node)
		} else if w.blocked[node].IsZero() {
			w.blocked[node] = time.Now()
		}
		if s.nodeNotReady || s.blocked && time.Since(w.blocked[node]) > w.RefusalTimeout {
			continue
		}
		if expected++; s.message == "" {
			ready++
		}
	}
	w.progress("nodes have pods that are ready", ready, expected)
	return ready == expected, nil
}

// refresh reads the Nodes that lack pods again, and whether pods are refused. Listing all Nodes of
// a large cluster would transfer megabytes each time.
func (w *podWait) refresh(ctx context.Context) error {
	var all errgroup.Group
	all.SetLimit(maxPods)
	for i, s := range w.statuses() {
		if s.message != "" {
			all.Go(func() error { return w.refreshNode(ctx, &w.nodes[i]) })
		}
	}
	if err := all.Wait(); err != nil {
		return err
	}
	w.refusal = refusal(w.events(ctx))
	return nil
}

// refreshNode reads a Node again. It lists, because the test may lack the right to get Nodes.
func (w *podWait) refreshNode(ctx context.Context, node *corev1.Node) error {
	list, err := w.Client.Nodes().List(ctx, metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + node.Name, ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for _, now := range list.Items {
		if now.Name == node.Name {
			*node = now
		}
	}
	return nil
}

// events returns the namespace's Events, the newest first; none without the right to list them.
func (w *podWait) events(ctx context.Context) []corev1.Event {
	list, err := w.Client.Events(w.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return b.LastTimestamp.Compare(a.LastTimestamp.Time) })
	return list.Items
}

// refusal returns why the API server rejected pods, by the Event of the DaemonSets' controller.
func refusal(events []corev1.Event) string {
	for i := range events {
		if events[i].Reason == "FailedCreate" {
			return events[i].Message
		}
	}
	return ""
}

// ready returns the pods of nodes whose pods are all ready, and a Problem for each other node.
func (w *podWait) ready(ctx context.Context) ([]corev1.Pod, []problem.Problem, error) {
	var absent []problem.Problem
	events := w.events(ctx)
	w.refusal = refusal(events)
	for i, s := range w.statuses() {
		if s.message == "" {
			continue
		}
		node := w.nodes[i].Name
		if !s.nodeNotReady && !s.blocked {
			s.message += w.lastWarning(events, node)
		}
		absent = append(absent, nodeAbsent(node, s.message, s.remediation))
		w.pods = slices.DeleteFunc(w.pods, func(p corev1.Pod) bool { return p.Spec.NodeName == node })
	}
	if len(absent) == len(w.nodes) {
		first := absent[0]
		return nil, nil, fmt.Errorf("the test's pods are ready on no node: on %s: %s; %s", first.Node, text.Printable(first.Message), first.Remediation)
	}
	w.pods = slices.DeleteFunc(w.pods, func(p corev1.Pod) bool { // of a node that joined meanwhile
		return !slices.ContainsFunc(w.nodes, func(n corev1.Node) bool { return n.Name == p.Spec.NodeName })
	})
	slices.SortFunc(w.pods, func(a, b corev1.Pod) int {
		return strings.Compare(a.Spec.NodeName+a.Labels[groupLabel], b.Spec.NodeName+b.Labels[groupLabel])
	})
	return w.pods, absent, nil
}

// lastWarning returns the last warning about a node's pods.
func (w *podWait) lastWarning(events []corev1.Event, node string) string {
	for i := range events {
		name := events[i].InvolvedObject.Name
		if events[i].Type == corev1.EventTypeWarning && slices.ContainsFunc(w.pods, func(p corev1.Pod) bool { return p.Name == name && p.Spec.NodeName == node }) {
			return ": " + events[i].Message
		}
	}
	return ""
}
