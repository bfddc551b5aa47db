package doctor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
)

// different are Nodes that have nothing in common.
func different(n int) *Target {
	l := &lan{}
	for i := range n {
		node := l.addNode(1)
		node.Name = fmt.Sprintf("node%d", i+1)
		node.Labels = map[string]string{corev1.LabelHostname: node.Name}
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: node.Name})
		node.Status.Addresses[0].Address = fmt.Sprintf("192.168.%d.%d", i/250, 1+i%250)
		node.Status.Addresses[1].Address = fmt.Sprintf("fd00:192::%x", i+1)
		node.Spec.PodCIDRs = []string{fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), fmt.Sprintf("fd00:10:%x::/64", i)}
		node.Status.NodeInfo = corev1.NodeSystemInfo{MachineID: "m" + node.Name, SystemUUID: "u" + node.Name, BootID: "b" + node.Name}
	}
	return &Target{Node: "node1", Nodes: l.nodes}
}

func TestDuplicates(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(a, b *corev1.Node)
		severity problem.Severity
		words    []string
	}{
		"InternalIP": {func(a, b *corev1.Node) { b.Status.Addresses[1] = a.Status.Addresses[1] }, problem.Error, []string{"same InternalIP: node2, node3", "fd00:192::2 of node2, node3"}},
		"hostname":   {func(a, b *corev1.Node) { b.Status.Addresses[2] = a.Status.Addresses[2] }, problem.Warning, []string{"same host name", "hostnamectl"}},
		"label":      {func(a, b *corev1.Node) { b.Labels = a.Labels }, problem.Warning, []string{"kubernetes.io/hostname"}},
		"machine ID": {func(a, b *corev1.Node) { b.Status.NodeInfo.MachineID = a.Status.NodeInfo.MachineID }, problem.Warning, []string{"mnode2 of node2, node3", "systemd-machine-id-setup"}},
		"UUID":       {func(_, b *corev1.Node) { b.Status.NodeInfo.SystemUUID = "UNODE2" }, problem.Warning, []string{"system UUID"}},
		"boot ID":    {func(a, b *corev1.Node) { b.Status.NodeInfo.BootID = a.Status.NodeInfo.BootID }, problem.Warning, []string{"snapshot of memory"}},
		"podCIDR":    {func(a, b *corev1.Node) { b.Spec.PodCIDRs[1] = a.Spec.PodCIDRs[1] }, problem.Error, []string{"overlapping", "fd00:10:1::/64 of node2 and fd00:10:1::/64 of node3"}},
		"in another": {func(_, b *corev1.Node) { b.Spec.PodCIDRs[0] = "10.0.0.0/21" }, problem.Error, []string{"10.0.0.0/21 of node3 and 10.0.1.0/24 of node2"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := different(3)
			well(t, duplicates(t.Context(), p))
			c.change(&p.Nodes[1], &p.Nodes[2])
			finds(t, duplicates(t.Context(), p), c.severity, c.words...)
		})
	}
}

// Nodes in containers of one machine, as kind makes them, are not clones.
func TestNodesOfOneKernel(t *testing.T) {
	p := different(3)
	for i := range p.Nodes {
		p.Nodes[i].Status.NodeInfo = corev1.NodeSystemInfo{MachineID: "m", SystemUUID: "u", BootID: "b"}
	}
	well(t, duplicates(t.Context(), p))
}

// Virtual kubelets on one machine may share its addresses and IDs, as on a real API server. Two
// machines may not, nor may a virtual kubelet have a machine's pod subnet.
func TestDuplicatesOfVirtualNodes(t *testing.T) {
	s := newAPIServer(t)
	agent := s.agent()
	s.node("node1", nil, "10.0.1.0/24")
	s.node("virtual1", func(n *corev1.Node) { n.Labels = map[string]string{"type": "virtual-kubelet"} }, "10.9.0.0/16")
	s.node("virtual2", func(n *corev1.Node) { n.Labels = map[string]string{"type": "kwok"} }, "10.9.1.0/24")
	s.node("virtual3", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "virtual-kubelet.io/provider", Value: "azure", Effect: corev1.TaintEffectNoSchedule}}
	}, "10.9.2.0/24")
	p := s.target(agent)
	well(t, duplicates(t.Context(), p))
	if peers, endpoints := p.peers(), p.kubeletEndpoints(); len(peers) > 0 || len(endpoints) > 0 {
		t.Errorf("virtual nodes are asked: %v, %v", peers, endpoints)
	}

	s.node("node2", nil, "10.9.3.0/24")
	found := duplicates(t.Context(), s.target(agent))
	finds(t, found[:1], problem.Error, "same InternalIP: node1, node2", "192.0.2.10 of node1, node2")
	last := found[len(found)-1:]
	finds(t, last, problem.Error, "overlapping pod subnets", "10.9.0.0/16 of virtual1 and 10.9.3.0/24 of node2")
	if len(found) != 4 || strings.Contains(fmt.Sprint(found), "virtual2") {
		t.Errorf("found %+v", found)
	}
}

// node registers a Node with the address 192.0.2.10.
func (s *apiServer) node(name string, change func(*corev1.Node), subnet string) {
	s.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: subnet, PodCIDRs: []string{subnet}}}
	if change != nil {
		change(node)
	}
	node, err := s.admin.CoreV1().Nodes().Create(s.t.Context(), node, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.10"}, {Type: corev1.NodeHostName, Address: "machine"}}
	node.Status.NodeInfo = corev1.NodeSystemInfo{MachineID: "m", SystemUUID: "u" + name, BootID: "b"}
	if _, err := s.admin.CoreV1().Nodes().UpdateStatus(s.t.Context(), node, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func TestDuplicatesAmong5000(t *testing.T) {
	p := different(5000)
	p.Nodes[4999].Spec.PodCIDRs = p.Nodes[17].Spec.PodCIDRs
	took := quickest(func() { finds(t, duplicates(t.Context(), p), problem.Error, "node18, node5000") })
	if took > time.Second {
		t.Errorf("it took %s", took)
	}
}
