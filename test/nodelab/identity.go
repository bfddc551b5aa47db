package nodelab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Claim rewrites the InternalIPs of a Node object, as its kubelet may at any time.
func (c *Cluster) Claim(ctx context.Context, node string, addresses ...netip.Addr) error {
	var patch struct {
		Status struct {
			Addresses []any `json:"addresses"`
		} `json:"status"`
	}
	// Strategic merging would keep what is there already.
	patch.Status.Addresses = append(patch.Status.Addresses, map[string]string{"$patch": "replace"})
	for _, address := range addresses {
		patch.Status.Addresses = append(patch.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address.String()})
	}
	content, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("rendering a patch: %w", err)
	}
	nodes := c.Client().CoreV1().Nodes()
	_, err = nodes.Patch(ctx, node, types.StrategicMergePatchType, content, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("rewriting the addresses of Node %s: %w", node, err)
	}
	return nil
}

// Assign gives a Node object its pod subnets, as a controller-manager does. The API server accepts one such change.
func (c *Cluster) Assign(ctx context.Context, node string, subnets ...netip.Prefix) error {
	var patch struct {
		Spec struct {
			PodCIDR  string   `json:"podCIDR"`
			PodCIDRs []string `json:"podCIDRs"`
		} `json:"spec"`
	}
	patch.Spec.PodCIDR, patch.Spec.PodCIDRs = subnets[0].String(), texts(subnets)
	content, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("rendering a patch: %w", err)
	}
	nodes := c.Client().CoreV1().Nodes()
	if _, err := nodes.Patch(ctx, node, types.StrategicMergePatchType, content, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("giving Node %s its subnets: %w", node, err)
	}
	return nil
}
