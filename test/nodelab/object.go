package nodelab

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

// object is the Node as a kubelet would have registered it, with the pod subnets that a controller-manager would have
// allocated.
func (n *Node) object(subnets []netip.Prefix) *corev1.Node {
	var addresses []corev1.NodeAddress
	for _, address := range n.Addrs() {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address.String()})
	}
	addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.Name})
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{
			corev1.LabelHostname: n.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Status: corev1.NodeStatus{
			Addresses: addresses,
			Capacity: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
				corev1.ResourcePods: resource.MustParse("110"),
			},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
				LastHeartbeatTime: metav1.NewTime(time.Now()), LastTransitionTime: metav1.NewTime(time.Now()),
			}},
			NodeInfo: corev1.NodeSystemInfo{
				OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: "v1.37.2",
				ContainerRuntimeVersion: "containerd://2.4.0",
			},
		},
	}
	node.Spec.PodCIDRs = texts(subnets)
	if len(subnets) > 0 {
		node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	}
	return node
}

func texts(subnets []netip.Prefix) []string {
	var all []string
	for _, subnet := range subnets {
		all = append(all, subnet.String())
	}
	return all
}

// Register creates the Node object with its pod subnets.
func (n *Node) Register(ctx context.Context) error { return n.register(ctx, n.Subnets) }

// RegisterWithoutSubnets creates the Node object as a kubelet does, before a controller has given it its subnets.
func (n *Node) RegisterWithoutSubnets(ctx context.Context) error { return n.register(ctx, nil) }

func (n *Node) register(ctx context.Context, subnets []netip.Prefix) error {
	_, err := n.cluster.Client().CoreV1().Nodes().Create(ctx, n.object(subnets), metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("creating Node %s: %w", n.Name, err)
	}
	return nil
}

// AssignSubnets gives the Node object the pod subnets that it was registered without.
func (n *Node) AssignSubnets(ctx context.Context) error {
	return n.cluster.Assign(ctx, n.Name, n.Subnets...)
}

// Deregister deletes the Node object.
func (n *Node) Deregister(ctx context.Context) error {
	if err := n.cluster.Client().CoreV1().Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting Node %s: %w", n.Name, err)
	}
	return nil
}

// SetAddresses replaces the InternalIPs in the Node object's status, as a kubelet does.
func (n *Node) SetAddresses(ctx context.Context, addresses ...netip.Addr) error {
	nodes := n.cluster.Client().CoreV1().Nodes()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		node, err := nodes.Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Status.Addresses = node.Status.Addresses[:0]
		for _, address := range addresses {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address.String()})
		}
		_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("setting the addresses of Node %s: %w", n.Name, err)
	}
	return nil
}
