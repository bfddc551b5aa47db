package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/status"
)

// Absence is a node that could not take part.
type Absence struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// await waits until the pods are ready, and tells which nodes have none that are, and
// why. It does not wait for nodes of which the API server knows that they are away.
func (r *Run) await(ctx context.Context, namespace string, nodes []corev1.Node) ([]corev1.Pod, []Absence, error) {
	limited, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	var pods []corev1.Pod
	err := poll(limited, r.Patience, func(ctx context.Context) (bool, error) {
		list, err := r.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: nameLabel + "=" + managedBy})
		if err != nil {
			return false, err
		}
		pods = list.Items
		done, wanted := 0, 0
		for _, why := range absences(pods, nodes) {
			if why.away {
				continue
			}
			if wanted++; why.text == "" {
				done++
			}
		}
		r.say("nodes have pods that are ready", done, wanted)
		return done == wanted, nil
	})
	var out *outage
	if ctx.Err() != nil || errors.As(err, &out) {
		return nil, nil, fmt.Errorf("waiting for the test's pods: %w", err)
	}
	return r.present(ctx, namespace, pods, nodes)
}

// present parts the nodes whose pods are ready from the others.
func (r *Run) present(ctx context.Context, namespace string, pods []corev1.Pod, nodes []corev1.Node) ([]corev1.Pod, []Absence, error) {
	var absent []Absence
	var refusal string
	for i, why := range absences(pods, nodes) {
		if why.text == noPod {
			if refusal == "" {
				refusal = r.refusal(ctx, namespace)
			}
			why.text += refusal
		}
		if why.text == "" {
			continue
		}
		absent = append(absent, Absence{nodes[i].Name, why.text})
		pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == nodes[i].Name })
	}
	if len(absent) == len(nodes) {
		return nil, nil, fmt.Errorf("the test's pods are not ready within %s (--timeout) on any node: on %s: %s", r.Timeout, absent[0].Node, status.Printable(absent[0].Why))
	}
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { // of a node that joined meanwhile
		return !slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name == p.Spec.NodeName })
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return strings.Compare(a.Spec.NodeName+a.Labels[groupLabel], b.Spec.NodeName+b.Labels[groupLabel])
	})
	return pods, absent, nil
}

// noPod is what is told of a node for which nobody made a pod.
const noPod = "it has no pod of the test"

// refusal is why the API server refused pods, as the DaemonSets' controller noted: a
// quota, an admission webhook.
func (r *Run) refusal(ctx context.Context, namespace string) string {
	list, err := r.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return ""
	}
	for i := range list.Items {
		if list.Items[i].Reason == "FailedCreate" {
			return ": " + list.Items[i].Message
		}
	}
	return ""
}

// absence is why a node can't take part; no text: it can.
type absence struct {
	text string
	away bool // as the API server knows
}

// absences has one for each node.
func absences(pods []corev1.Pod, nodes []corev1.Node) []absence {
	of := map[string][]*corev1.Pod{}
	for i := range pods {
		of[pods[i].Spec.NodeName] = append(of[pods[i].Spec.NodeName], &pods[i])
	}
	all := make([]absence, len(nodes))
	for i := range nodes {
		own := of[nodes[i].Name]
		if len(own) < len(groups) {
			all[i].text = noPod
		}
		for _, p := range own {
			if why := waitsFor(p); why != "" {
				all[i].text = "its pod is not ready: " + why
			}
		}
		if why := notReady(&nodes[i]); why != "" && all[i].text != "" {
			all[i] = absence{why, true}
		}
	}
	return all
}

// notReady says why the API server calls a node so, or nothing.
func notReady(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return "the node is NotReady: " + strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
		}
	}
	return ""
}

// waitsFor says why a pod is not ready, or nothing.
func waitsFor(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			return strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
		}
		if t := c.State.Terminated; t != nil {
			return "it ended: " + t.Reason
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message
		}
	}
	return "it starts"
}
