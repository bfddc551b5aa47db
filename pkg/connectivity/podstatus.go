package connectivity

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// podStatus is why a node's pods are not ready; without a message they are.
type podStatus struct {
	message, remediation string
	nodeNotReady         bool
	blocked              bool // until an operator acts
}

// statuses returns the podStatus of each node.
func (w *podWait) statuses() []podStatus {
	byNode := map[string][]*corev1.Pod{}
	for i := range w.pods {
		byNode[w.pods[i].Spec.NodeName] = append(byNode[w.pods[i].Spec.NodeName], &w.pods[i])
	}
	all := make([]podStatus, len(w.nodes))
	for i := range w.nodes {
		all[i] = w.status(&w.nodes[i], byNode[w.nodes[i].Name])
	}
	return all
}

func (w *podWait) status(node *corev1.Node, pods []*corev1.Pod) podStatus {
	var found podStatus
	switch {
	case len(pods) >= len(groups):
	case w.refusal != "":
		found = podStatus{
			message: "the API server rejects the test's pods: " + w.refusal, blocked: true,
			remediation: "admit pods in namespaces with the label " + managedByLabel + "=" + managedBy + ": the message names the quota, policy or webhook that does not",
		}
	default:
		found = podStatus{message: "it has no pod of the test", remediation: "check that kube-controller-manager runs: kubectl -n kube-system get pods, kubectl describe node " + node.Name}
	}
	for _, p := range pods {
		if s := w.notReady(p); s.message != "" {
			s.message = "its pod is not ready: " + s.message
			found = s
		}
	}
	if message := nodeNotReady(node); message != "" && found.message != "" {
		return podStatus{message: message, remediation: "kubectl describe node " + node.Name + ", and on the node: systemctl status kubelet, journalctl -u kubelet", nodeNotReady: true}
	}
	return found
}

// nodeNotReady returns why a node is NotReady, or "".
func nodeNotReady(n *corev1.Node) string {
	switch c := readiness(n); {
	case c == nil:
		return "the node is NotReady: no kubelet has ever updated its status"
	case c.Status != corev1.ConditionTrue:
		return "the node is NotReady: " + strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
	}
	return ""
}

// readiness returns a node's condition Ready, or nil.
func readiness(n *corev1.Node) *corev1.NodeCondition {
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	if i < 0 {
		return nil
	}
	return &n.Status.Conditions[i]
}

// imageReasons are a kubelet's for an image that it can't get (kubernetes: pkg/kubelet/images/types.go).
var imageReasons = []string{"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"}

// notReady returns why a pod is not ready.
func (w *podWait) notReady(p *corev1.Pod) podStatus {
	describe := "kubectl describe node " + p.Spec.NodeName + ", and its agent: kubectl plainroute status; for a slow node a longer --timeout"
	for _, c := range p.Status.ContainerStatuses {
		if waiting := c.State.Waiting; waiting != nil {
			s := podStatus{message: strings.TrimSuffix(waiting.Reason+": "+waiting.Message, ": "), remediation: describe}
			if s.blocked = slices.Contains(imageReasons, waiting.Reason); s.blocked {
				s.remediation = "bring " + w.Image + " to the node, or name an image that needs no pull secret: --image"
			}
			return s
		}
		if t := c.State.Terminated; t != nil {
			return podStatus{message: "it ended: " + t.Reason, remediation: describe}
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return podStatus{}
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return podStatus{message: c.Message, remediation: "free resources for two small pods, or remove the node from the cluster: kubectl describe node " + p.Spec.NodeName}
		}
	}
	return podStatus{message: "it is starting", remediation: describe}
}
