package topology

import (
	"maps"
	"slices"
)

// VirtualLabels returns the labels, with their values, of Nodes without a kernel of their own,
// which the manifests' affinity excludes: virtual kubelets, kwok's, Liqo's and Fargate's.
func VirtualLabels() map[string][]string {
	return map[string][]string{
		"type": {"virtual-kubelet", "kwok"}, "liqo.io/type": {"virtual-node"}, "eks.amazonaws.com/compute-type": {"fargate"},
	}
}

// VirtualLabel returns the one of a Node's labels, KEY=VALUE, that marks it as virtual, or "".
func VirtualLabel(labels map[string]string) string {
	all := VirtualLabels()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if value := labels[key]; slices.Contains(all[key], value) {
			return key + "=" + value
		}
	}
	return ""
}

// Virtual reports whether a Node's labels mark it as virtual.
func Virtual(labels map[string]string) bool { return VirtualLabel(labels) != "" }
