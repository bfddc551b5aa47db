package controllers

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// nodes are those of the real API server. All that a test makes are gone when
// it ends.
type nodes struct {
	t *testing.T
	typedcorev1.NodeInterface
}

// useNodes gives the test an API server without Nodes, or skips it.
func useNodes(t *testing.T) nodes {
	t.Helper()
	switch skipReason, err := needCluster(); {
	case err != nil:
		t.Fatal("starting the API server:", err)
	case skipReason != "":
		t.Skip(skipReason)
	}
	n := nodes{t, cluster.admin.CoreV1().Nodes()}
	n.t.Cleanup(n.clear)
	return n
}

func (n nodes) clear() {
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	if err := n.DeleteCollection(context.Background(), now, metav1.ListOptions{}); err != nil {
		n.t.Error("deleting all Nodes:", err)
	}
}

// newNode makes the object of a Node from its name, and then pod subnets and
// InternalIPs in any order.
func newNode(name string, rest ...string) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, s := range rest {
		if strings.Contains(s, "/") {
			node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, s)
			node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
			continue
		}
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: s})
	}
	return node
}

// node1 is our own Node.
func node1() *corev1.Node {
	return newNode("node1", "10.244.1.0/24", "fd00:10:244:1::/64", "192.168.1.11", "fd00:192:168:1::11")
}

// peer is Node number i of the LAN, IPv4 only.
func peer(i int) *corev1.Node {
	return newNode(fmt.Sprintf("node%d", i), fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("192.168.1.%d", 10+i))
}

// peerRoute is the route to it.
func peerRoute(i int) string { return fmt.Sprintf("10.244.%d.0/24 via 192.168.1.%d", i, 10+i) }

func (n nodes) create(list ...*corev1.Node) {
	n.t.Helper()
	for _, node := range list {
		if _, err := n.Create(context.Background(), node, metav1.CreateOptions{}); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n nodes) remove(name string) {
	n.t.Helper()
	if err := n.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// update changes a Node's spec, updateStatus its status.
func (n nodes) update(name string, edit func(*corev1.Node)) {
	n.t.Helper()
	n.edit(name, edit, n.Update)
}

func (n nodes) updateStatus(name string, edit func(*corev1.Node)) {
	n.t.Helper()
	n.edit(name, edit, n.UpdateStatus)
}

func (n nodes) edit(name string, edit func(*corev1.Node), store func(context.Context, *corev1.Node, metav1.UpdateOptions) (*corev1.Node, error)) {
	n.t.Helper()
	node := n.get(name)
	edit(node)
	if _, err := store(context.Background(), node, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

func (n nodes) get(name string) *corev1.Node {
	n.t.Helper()
	node, err := n.Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return node
}
