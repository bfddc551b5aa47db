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

// Settling is how long a refusal may go on until it counts as one for good: a registry may
// have a hiccup, and a quota may just be counted.
const Settling = 15 * time.Second

// lookAgain is how often Nodes and Events are looked at meanwhile.
const lookAgain = 3 * time.Second

// vigil is the wait for the pods.
type vigil struct {
	*Run
	namespace string
	nodes     []corev1.Node
	pods      []corev1.Pod
	refusal   string               // why the API server takes no pods
	stuck     map[string]time.Time // since when nodes can't take part unless somebody acts
	looked    time.Time
}

// await waits until the pods are ready, and tells which nodes have none that are, and
// why. It does not wait for nodes of which the API server knows that they are away, nor
// for long for those that refuse the pods.
func (r *Run) await(ctx context.Context, namespace string, nodes []corev1.Node) ([]corev1.Pod, []problem.Problem, error) {
	limited, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	v := &vigil{Run: r, namespace: namespace, nodes: nodes, stuck: map[string]time.Time{}, looked: time.Now()}
	err := poll(limited, r.Patience, v.look)
	var out *outage
	if ctx.Err() != nil || errors.As(err, &out) {
		return nil, nil, fmt.Errorf("waiting for the test's pods: %w", err)
	}
	return v.present(ctx)
}

// look tells whether there is nobody more to wait for.
func (v *vigil) look(ctx context.Context) (bool, error) {
	list, err := v.Client.CoreV1().Pods(v.namespace).List(ctx, metav1.ListOptions{LabelSelector: nameLabel + "=" + managedBy})
	if err != nil {
		return false, err
	}
	v.pods = list.Items
	if time.Since(v.looked) > lookAgain {
		if err := v.lookAround(ctx); err != nil {
			return false, err
		}
		v.looked = time.Now()
	}
	done, wanted := 0, 0
	for i, why := range v.absences() {
		node := v.nodes[i].Name
		if !why.stuck {
			delete(v.stuck, node)
		} else if v.stuck[node].IsZero() {
			v.stuck[node] = time.Now()
		}
		if why.away || why.stuck && time.Since(v.stuck[node]) > v.Settling {
			continue
		}
		if wanted++; why.text == "" {
			done++
		}
	}
	v.say("nodes have pods that are ready", done, wanted)
	return done == wanted, nil
}

// lookAround sees whether nodes went away meanwhile that lack pods, and whether pods are
// refused. All Nodes of a large cluster at once would be megabytes each time.
func (v *vigil) lookAround(ctx context.Context) error {
	var all errgroup.Group
	all.SetLimit(podsAtOnce)
	for i, why := range v.absences() {
		if why.text != "" {
			all.Go(func() error { return v.lookAt(ctx, &v.nodes[i]) })
		}
	}
	if err := all.Wait(); err != nil {
		return err
	}
	v.refusal = refusal(v.events(ctx))
	return nil
}

// lookAt lists one Node, for which the right to list them is enough. One that was deleted
// stays as it was.
func (v *vigil) lookAt(ctx context.Context, node *corev1.Node) error {
	list, err := v.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + node.Name, ResourceVersion: "0"})
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

// events are what went wrong, as the cluster noted it, the newest first.
func (v *vigil) events(ctx context.Context) []corev1.Event {
	list, err := v.Client.CoreV1().Events(v.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil // who may not read them is told less
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return b.LastTimestamp.Compare(a.LastTimestamp.Time) })
	return list.Items
}

// refusal is why the API server refused pods, as the DaemonSets' controller noted: a
// quota, an admission webhook.
func refusal(events []corev1.Event) string {
	for i := range events {
		if events[i].Reason == "FailedCreate" {
			return events[i].Message
		}
	}
	return ""
}

// present parts the nodes whose pods are ready from the others.
func (v *vigil) present(ctx context.Context) ([]corev1.Pod, []problem.Problem, error) {
	var absent []problem.Problem
	events := v.events(ctx)
	v.refusal = refusal(events)
	for i, why := range v.absences() {
		if why.text == "" {
			continue
		}
		node := v.nodes[i].Name
		if !why.away && !why.stuck {
			why.text += v.complaint(events, node)
		}
		absent = append(absent, nodeAbsent(node, why.text, why.cure))
		v.pods = slices.DeleteFunc(v.pods, func(p corev1.Pod) bool { return p.Spec.NodeName == node })
	}
	if len(absent) == len(v.nodes) {
		first := absent[0]
		return nil, nil, fmt.Errorf("the test's pods get ready on no node: on %s: %s; %s", first.Node, text.Printable(first.Message), first.Remediation)
	}
	v.pods = slices.DeleteFunc(v.pods, func(p corev1.Pod) bool { // of a node that joined meanwhile
		return !slices.ContainsFunc(v.nodes, func(n corev1.Node) bool { return n.Name == p.Spec.NodeName })
	})
	slices.SortFunc(v.pods, func(a, b corev1.Pod) int {
		return strings.Compare(a.Spec.NodeName+a.Labels[groupLabel], b.Spec.NodeName+b.Labels[groupLabel])
	})
	return v.pods, absent, nil
}

// complaint is what a kubelet said last about its pods.
func (v *vigil) complaint(events []corev1.Event, node string) string {
	for i := range events {
		about := events[i].InvolvedObject.Name
		if events[i].Type == corev1.EventTypeWarning && slices.ContainsFunc(v.pods, func(p corev1.Pod) bool { return p.Name == about && p.Spec.NodeName == node }) {
			return ": " + events[i].Message
		}
	}
	return ""
}

// absence is why a node can't take part; no text: it can.
type absence struct {
	text, cure string
	away       bool // as the API server knows
	stuck      bool // until somebody acts
}

// absences has one for each node.
func (v *vigil) absences() []absence {
	of := map[string][]*corev1.Pod{}
	for i := range v.pods {
		of[v.pods[i].Spec.NodeName] = append(of[v.pods[i].Spec.NodeName], &v.pods[i])
	}
	all := make([]absence, len(v.nodes))
	for i := range v.nodes {
		all[i] = v.absence(&v.nodes[i], of[v.nodes[i].Name])
	}
	return all
}

func (v *vigil) absence(node *corev1.Node, own []*corev1.Pod) absence {
	var found absence
	switch {
	case len(own) >= len(groups):
	case v.refusal != "":
		found = absence{
			text:  "the API server takes no pod of the test: " + v.refusal,
			cure:  "let pods pass in namespaces labelled " + managedByLabel + "=" + managedBy + ": the message names the quota, policy or webhook that does not",
			stuck: true,
		}
	default:
		found = absence{text: "it has no pod of the test", cure: "does kube-controller-manager run? kubectl -n kube-system get pods, kubectl describe node " + node.Name}
	}
	for _, p := range own {
		if why := v.waitsFor(p); why.text != "" {
			why.text = "its pod is not ready: " + why.text
			found = why
		}
	}
	if why := notReady(node); why != "" && found.text != "" {
		return absence{text: why, cure: "kubectl describe node " + node.Name + ", and there: systemctl status kubelet, journalctl -u kubelet", away: true}
	}
	return found
}

// notReady says why the API server calls a node so, or nothing.
func notReady(n *corev1.Node) string {
	switch c := readiness(n); {
	case c == nil:
		return "the node is NotReady: no kubelet has ever reported of it"
	case c.Status != corev1.ConditionTrue:
		return "the node is NotReady: " + strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
	}
	return ""
}

// readiness is what is known of it; nil: nothing.
func readiness(n *corev1.Node) *corev1.NodeCondition {
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	if i < 0 {
		return nil
	}
	return &n.Status.Conditions[i]
}

// imageReasons are a kubelet's words for an image that it can't get
// (kubernetes: pkg/kubelet/images/types.go).
var imageReasons = []string{"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"}

// waitsFor says why a pod is not ready, or nothing.
func (v *vigil) waitsFor(p *corev1.Pod) absence {
	look := "kubectl describe node " + p.Spec.NodeName + ", and its agent: kubectl plainroute status; if it is slow, --timeout"
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			found := absence{text: strings.TrimSuffix(w.Reason+": "+w.Message, ": "), cure: look}
			if slices.Contains(imageReasons, w.Reason) {
				found.stuck = true
				found.cure = "bring " + v.Image + " to the node, or name an image that it can get without a pull secret: --image"
			}
			return found
		}
		if t := c.State.Terminated; t != nil {
			return absence{text: "it ended: " + t.Reason, cure: look}
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return absence{}
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return absence{text: c.Message, cure: "make room for two small pods, or take the node out of the cluster: kubectl describe node " + p.Spec.NodeName}
		}
	}
	return absence{text: "it starts", cure: look}
}
