package topology

import (
	"maps"
	"slices"
)

// VirtualLabels are labels, and values of them, by which the manifests' affinity keeps
// agents off Nodes that have no kernel of their own: virtual kubelets, kwok's, Liqo's
// and Fargate's.
func VirtualLabels() map[string][]string {
	return map[string][]string{
		"type": {"virtual-kubelet", "kwok"}, "liqo.io/type": {"virtual-node"}, "eks.amazonaws.com/compute-type": {"fargate"},
	}
}

// VirtualLabel is that of a Node's labels, KEY=VALUE, by which there is no kernel behind
// it, or nothing.
func VirtualLabel(labels map[string]string) string {
	all := VirtualLabels()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if value := labels[key]; slices.Contains(all[key], value) {
			return key + "=" + value
		}
	}
	return ""
}

// Virtual tells by a Node's labels that there is no kernel behind it.
func Virtual(labels map[string]string) bool { return VirtualLabel(labels) != "" }
