package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
)

// creators is how many Nodes are created or deleted at a time.
const creators = 16

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
	nodes := c.plane.client.CoreV1().Nodes()
	_, err = nodes.Patch(ctx, node, types.StrategicMergePatchType, content, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("rewriting the addresses of Node %s: %w", node, err)
	}
	return nil
}

// Assign gives a Node object pod subnets that it has not had, as a controller-manager does, or anybody who may write
// the Nodes' specs. The API server lets it happen once.
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
	nodes := c.plane.client.CoreV1().Nodes()
	if _, err := nodes.Patch(ctx, node, types.StrategicMergePatchType, content, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("giving Node %s its subnets: %w", node, err)
	}
	return nil
}

// AddAddresses gives the machine more addresses on the LAN, beside those that it has.
func (n *Node) AddAddresses(addresses ...netip.Addr) error {
	var prefixes []netip.Prefix
	for _, address := range addresses {
		lan := lan4
		if address.Is6() {
			lan = lan6
		}
		prefixes = append(prefixes, netip.PrefixFrom(address, lan.Bits()))
	}
	return n.addAddresses(uplink, prefixes...)
}

// ForgeAll creates many Node objects at once.
func (c *Cluster) ForgeAll(ctx context.Context, forgeries []Forgery) error {
	errs := make([]error, len(forgeries))
	workqueue.ParallelizeUntil(ctx, creators, len(forgeries), func(i int) { errs[i] = c.Forge(ctx, forgeries[i]) })
	return errors.Join(errs...)
}

// UnforgeAll deletes them at once; those that are gone already are no fault.
func (c *Cluster) UnforgeAll(ctx context.Context, forgeries []Forgery) error {
	errs := make([]error, len(forgeries))
	workqueue.ParallelizeUntil(ctx, creators, len(forgeries), func(i int) {
		if err := c.Unforge(ctx, forgeries[i]); !apierrors.IsNotFound(err) {
			errs[i] = err
		}
	})
	return errors.Join(errs...)
}
