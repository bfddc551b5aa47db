package connectivity

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var update = flag.Bool("update", false, "write what is got into testdata as what is wanted")

// cluster is n nodes with two pods each, dual-stack.
func cluster(n int) (pods []corev1.Pod, nodes []corev1.Node) {
	for i := range n {
		name := fmt.Sprintf("node-%d", i+1)
		nodes = append(nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.1.%d", 11+i)}, {Type: corev1.NodeHostName, Address: name},
		}, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}})
		for j, group := range groups {
			pods = append(pods, corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: name + "-" + group, Labels: objectLabels(group)},
				Spec:       corev1.PodSpec{NodeName: name},
				Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.244.%d.%d", i+1, 2+j)}, {IP: fmt.Sprintf("fd00:10:244:%d::%d", i+1, 2+j)}}},
			})
		}
	}
	return pods, nodes
}

func TestPlan(t *testing.T) {
	pods, nodes := cluster(3)
	p := newPlan(pods, nodes, []string{"10.96.0.7", "fd00:10:96::7"}, []string{"responder"}, []string{"192.0.2.1:80"})
	if len(p.tasks) != 3 || !slices.Equal(p.nodes, []string{"node-1", "node-2", "node-3"}) {
		t.Fatalf("the plan is %+v", p)
	}
	first := p.tasks[0]
	for _, want := range []string{
		"node-2 {tcp 10.244.2.2:9473}", "node-2 {mtu [fd00:10:244:2::2]:9473}", "node-3 {large 10.244.3.2:9474}",
		"node-1 {udp 10.244.1.3:9473}", // the other pod of its own node
		"node-2 {bulk 10.244.2.2:9473}", "node node-1 {reach 192.168.1.11:10250}", "Service {tcp [fd00:10:96::7]:9473}",
		"DNS {name responder}", "outside {reach 192.0.2.1:80}",
	} {
		if !slices.Contains(first.lines(), want) {
			t.Errorf("no task has %s; all: %q", want, first.lines())
		}
	}
	for _, no := range []string{"10.244.1.2:", "node-3 {bulk", "10.244.2.3:"} { // itself, much to all, pods of others' second group
		if strings.Contains(strings.Join(first.lines(), "\n"), no) {
			t.Errorf("a task has %s", no)
		}
	}
}

func (t task) lines() []string {
	var all []string
	for i := range t.probes {
		all = append(all, fmt.Sprintf("%s %v", t.targets[i], t.probes[i]))
	}
	return all
}

// Pods of one family don't try the other.
func TestPlanOfOneFamily(t *testing.T) {
	pods, nodes := cluster(2)
	for i := range pods {
		pods[i].Status.PodIPs = pods[i].Status.PodIPs[:1]
	}
	nodes[1].Status.Addresses = append(nodes[1].Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "fd00::12"})
	p := newPlan(pods, nodes, []string{"10.96.0.7", "fd00:10:96::7"}, nil, nil)
	for _, line := range p.tasks[0].lines() {
		if strings.Contains(line, "fd00") {
			t.Errorf("it tries %s", line)
		}
	}
}

func TestResult(t *testing.T) {
	self, other := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("192.168.1.11")
	good := &Result{Nodes: []string{"node-1", "node-2"}, Skipped: []string{"names: the cluster has no DNS"}}
	good.add("node-1", "node-2", Probe{TCP, "10.244.2.2:9473"}, Outcome{Self: self, Seen: self})
	good.add("node-1", Services, Probe{TCP, "10.96.0.7:9473"}, Outcome{Self: self, Seen: other})
	bad := &Result{Nodes: []string{"node-1", "node-2", "node-3"}, Sampled: true}
	bad.add("node-3", "node-1", Probe{TCP, "10.244.1.2:9473"}, Outcome{Self: self, Seen: other})
	bad.add("node-1", "node-2", Probe{Bulk, "10.244.2.2:9473"}, Outcome{Error: "no answer"})
	bad.add("node-1", "node-2", Probe{TCP, "10.244.2.2:9473"}, Outcome{Error: "no answer"})
	bad.add("node-1", "node node-2", Probe{Reach, "192.168.1.12:10250"}, Outcome{Error: "no answer"})
	bad.add("node-2", Names, Probe{Name, "kubernetes.default"}, Outcome{Error: "no such host"})
	narrow := &Result{Nodes: []string{"node-1", "node-2"}}
	narrow.add("node-1", "node-2", Probe{MTU, "10.244.2.2:9473"}, Outcome{Error: "no answer"})
	for file, r := range map[string]*Result{"good": good, "bad": bad, "narrow": narrow} {
		r.sort()
		var b bytes.Buffer
		if err := r.Print(&b); err != nil {
			t.Fatal(err)
		}
		path := "testdata/" + file + ".txt"
		if *update {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) || r.OK() != (file == "good") {
			t.Errorf("%s, ok %t:\n%s\nwant:\n%s", file, r.OK(), b.String(), want)
		}
	}
}

// Pods without the label of their group lead to an error, not to a panic.
func TestNoPodMakesProbes(t *testing.T) {
	p := newPlan([]corev1.Pod{{}}, nil, nil, nil, nil)
	if err := new(Run).probe(t.Context(), testNamespace, p, &Result{}); err == nil || !strings.Contains(err.Error(), groupLabel) {
		t.Errorf("got %v", err)
	}
}
