package apiserver

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// Nodes are the Nodes of the real API server. They are deleted when the test ends.
type Nodes struct {
	*Server
	typedcorev1.NodeInterface
	t *testing.T
}

// Use returns the Nodes of the real API server, of which there are none. Without the server's
// binaries the test is skipped.
func Use(t *testing.T) *Nodes {
	t.Helper()
	s := Start(t)
	n := &Nodes{s, s.Admin.CoreV1().Nodes(), t}
	t.Cleanup(n.Clear)
	return n
}

// Clear deletes all Nodes.
func (n *Nodes) Clear() {
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	if err := n.DeleteCollection(context.Background(), now, metav1.ListOptions{}); err != nil {
		n.t.Error("deleting all Nodes:", err)
	}
}

// Add creates Nodes.
func (n *Nodes) Add(list ...*corev1.Node) {
	n.t.Helper()
	for _, node := range list {
		if _, err := n.Create(context.Background(), node, metav1.CreateOptions{}); err != nil {
			n.t.Fatal(err)
		}
	}
}

// Remove deletes a Node.
func (n *Nodes) Remove(name string) {
	n.t.Helper()
	if err := n.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// Edit changes a Node, but for its status.
func (n *Nodes) Edit(name string, edit func(*corev1.Node)) {
	n.t.Helper()
	n.edit(name, edit, n.Update)
}

// EditStatus changes a Node's status.
func (n *Nodes) EditStatus(name string, edit func(*corev1.Node)) {
	n.t.Helper()
	n.edit(name, edit, n.UpdateStatus)
}

func (n *Nodes) edit(name string, edit func(*corev1.Node), store func(context.Context, *corev1.Node, metav1.UpdateOptions) (*corev1.Node, error)) {
	n.t.Helper()
	node := n.Read(name)
	edit(node)
	if _, err := store(context.Background(), node, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// Read returns a Node.
func (n *Nodes) Read(name string) *corev1.Node {
	n.t.Helper()
	node, err := n.Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return node
}

// Untainted returns an error while node1 has a taint with the key.
func (n *Nodes) Untainted(key string) error {
	for _, t := range n.Read("node1").Spec.Taints {
		if t.Key == key {
			return fmt.Errorf("the taints are %+v", n.Read("node1").Spec.Taints)
		}
	}
	return nil
}

// NodeEvents returns the Events that `kubectl describe node node1` finds (searchEvents of
// k8s.io/kubectl/pkg/describe): Events of core/v1 with the Node's name for a UID.
func (n *Nodes) NodeEvents() []corev1.Event {
	n.t.Helper()
	list, err := n.Admin.CoreV1().Events("").List(context.Background(), metav1.ListOptions{FieldSelector: fields.Set{
		"involvedObject.kind": "Node", "involvedObject.name": "node1", "involvedObject.uid": "node1",
	}.String()})
	if err != nil {
		n.t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return cmp.Compare(a.Reason+a.Message, b.Reason+b.Message) })
	return list.Items
}

// HasEvents returns an error unless the Events of node1 are these, each as "Type Reason xCount".
func (n *Nodes) HasEvents(want ...string) error {
	n.t.Helper()
	var have []string
	for _, e := range n.NodeEvents() {
		count := int32(1)
		if e.Series != nil {
			count = e.Series.Count
		}
		have = append(have, fmt.Sprintf("%s %s x%d", e.Type, e.Reason, count))
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("the Events are %q, want %q", have, want)
	}
	return nil
}

// ForgetEvents deletes all Events, as API servers do after an hour.
func (n *Nodes) ForgetEvents() {
	n.t.Helper()
	if err := n.Admin.EventsV1().Events("default").DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		n.t.Error("deleting all Events:", err)
	}
}

// NewNode returns a Node with a name, and then pod subnets and InternalIPs in any order.
func NewNode(name string, rest ...string) *corev1.Node {
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

// Node1 returns the Node of the agent under test.
func Node1() *corev1.Node {
	return NewNode("node1", "10.244.1.0/24", "fd00:10:244:1::/64", "192.168.1.11", "fd00:192:168:1::11")
}

// Peer returns Node number i of the LAN, with IPv4 only.
func Peer(i int) *corev1.Node {
	return NewNode(fmt.Sprintf("node%d", i), fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("192.168.1.%d", 10+i))
}

// ManyAddresses returns a Node with n InternalIPs.
func ManyAddresses(n int) *corev1.Node {
	node := NewNode("many", "10.244.77.0/24")
	for i := range n {
		ip := fmt.Sprintf("172.%d.%d.%d", 16+i>>16, i>>8&0xff, i&0xff)
		if i == 0 {
			ip = "192.168.1.77"
		}
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	return node
}

// StartupTaint is the key of a taint that keeps pods away until a node's network is there.
const StartupTaint = "example.com/network-not-ready"

// Tainted returns Node1 as a cloud registers it: its network is marked as unavailable.
func Tainted() *corev1.Node {
	n := Node1()
	n.Labels = map[string]string{"a": "b"}
	n.Spec.Taints = []corev1.Taint{
		{Key: "first", Effect: corev1.TaintEffectNoSchedule},
		{Key: StartupTaint, Effect: corev1.TaintEffectNoSchedule, Value: "x"},
		{Key: "second", Effect: corev1.TaintEffectNoExecute},
		{Key: StartupTaint, Effect: corev1.TaintEffectNoExecute},
	}
	n.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady"},
		{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: "NoRouteCreated"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
	}
	return n
}

// NetworkCondition returns the condition NetworkUnavailable of a Node, or nil.
func NetworkCondition(n *corev1.Node) *corev1.NodeCondition {
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeNetworkUnavailable })
	if i < 0 {
		return nil
	}
	return &n.Status.Conditions[i]
}

// NotInitialized is the message of the condition Ready while containerd has loaded no CNI config.
const NotInitialized = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"

// ReadyCondition returns conditions that consist of Ready alone.
func ReadyCondition(status corev1.ConditionStatus, message string) []corev1.NodeCondition {
	return []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: "KubeletNotReady", Message: message}}
}
