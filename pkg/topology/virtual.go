package topology

import "slices"

// VirtualLabels are labels, and values of them, by which the manifests' affinity keeps
// agents off Nodes that have no kernel of their own: virtual kubelets, kwok's, Liqo's
// and Fargate's.
func VirtualLabels() map[string][]string {
	return map[string][]string{
		"type": {"virtual-kubelet", "kwok"}, "liqo.io/type": {"virtual-node"}, "eks.amazonaws.com/compute-type": {"fargate"},
	}
}

// Virtual tells by a Node's labels that there is no kernel behind it.
func Virtual(labels map[string]string) bool {
	for key, values := range VirtualLabels() {
		if slices.Contains(values, labels[key]) {
			return true
		}
	}
	return false
}
