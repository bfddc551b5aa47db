package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNodesBecomeRoutes(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.ready)

	api.Add(newNode("node3", "10.244.3.0/24", "fd00:10:244:3::/64", "192.168.1.13", "fd00:192:168:1::13"))
	v6 := "fd00:10:244:3::/64 via fd00:192:168:1::13"
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3), v6))

	n := len(a.host.since(0))
	api.EditStatus("node2", func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.168.1.22" })
	a.eventually(a.hasRoutes("10.244.2.0/24 via 192.168.1.22", peerRoute(3), v6))
	if done := a.host.since(n); !contains(done, "replace 10.244.2.0/24 via 192.168.1.22") || contains(done, "delete") {
		t.Errorf("a changed address must replace the route in place, but: %q", done)
	}

	api.Remove("node3")
	a.eventually(a.hasRoutes("10.244.2.0/24 via 192.168.1.22"))
	a.eventually(a.ready)
}

// A heartbeat, which each kubelet sends every few minutes, leads to no pass.
func TestHeartbeatTriggersNoPass(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.ready)
	a.settle()
	before := a.passes()

	for range 3 {
		api.EditStatus("node2", func(n *corev1.Node) {
			n.Status.Conditions = []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue,
				LastHeartbeatTime: metav1.NewTime(time.Now()), Reason: "KubeletReady",
			}}
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{"example.com/a:1"}, SizeBytes: 1})
		})
	}
	api.Edit("node2", func(n *corev1.Node) { n.Annotations = map[string]string{"example.com/beat": "1"} })
	// A watch keeps the order: once this one has arrived, those have too.
	api.Add(peer(3))
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.settle()
	if got := a.passes() - before; got != 1 {
		t.Errorf("four heartbeats and a new Node made %d passes, want 1", got)
	}
}

// However much happens while a pass runs, it is one thing to look at.
func TestBurstIsFewPasses(t *testing.T) {
	api := useNodes(t)
	api.Add(node1())
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.settle()
	before := a.passes()
	a.host.inOnePass(func() {
		for range 1000 {
			a.host.notify()
		}
	})
	a.settle()
	// Where in the queue the burst meets a pass, and settling, may add a few.
	if got := a.passes() - before; got < 2 || got > 10 {
		t.Errorf("1000 notifications while a pass ran made %d more, want a few at most", got-1)
	}
}
