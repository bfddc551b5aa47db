package controllers

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

const ownRoute = "unreachable 10.244.1.0/24 proto 112 metric 4096"

// Without a Node of our own, peers are routed to all the same, and nothing else
// is decided.
func TestOwnNodeComesLate(t *testing.T) {
	api := useNodes(t)
	api.Add(peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.eventually(a.notReady("node node1: NodeMissing", "--node-name"))
	a.host.with(func() {
		if a.host.state.CNI != nil || a.host.state.Masquerade != nil {
			t.Error("there is a CNI config or a table for pod subnets that nobody knows")
		}
	})

	api.Add(node1())
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	if !slices.Contains(a.host.routes(), ownRoute) {
		t.Errorf("no %q in %q", ownRoute, a.host.routes())
	}
}

func TestPodCIDRComesLate(t *testing.T) {
	api := useNodes(t)
	api.Add(newNode("node1", "192.168.1.11"), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.notReady("node node1: PodCIDRMissing", "--allocate-node-cidrs"))

	api.Edit("node1", func(n *corev1.Node) {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.244.1.0/24", []string{"10.244.1.0/24"}
	})
	a.eventually(a.ready)
	want := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}
	a.host.with(func() {
		if got := a.host.state.CNI.Subnets; !slices.Equal(got, want) {
			t.Errorf("the CNI config has %v, want %v", got, want)
		}
	})
}

// A Node that was deleted by mistake, and its podCIDR with it, must cut no pod.
func TestOwnNodeDeletedRemovesNothing(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	var before topology.State
	a.host.with(func() { before = a.host.copyState() })
	n := len(a.host.since(0))

	api.Remove("node1")
	a.eventually(a.notReady("node node1: NodeMissing"))
	api.Remove("node2") // without our own Node the view can't be trusted
	a.eventually(func() error { return a.hasProblem("", problem.PruneHeld) })
	a.settle()
	if done := a.host.since(n); contains(done, "delete") || contains(done, "narrow") || contains(done, "cni") {
		t.Errorf("something was removed: %q", done)
	}
	a.host.with(func() {
		if !slices.EqualFunc(a.host.state.Routes, before.Routes, topology.SameRoute) || !a.host.state.CNI.Equal(before.CNI) {
			t.Errorf("the host was %v and is %v", before, a.host.state)
		}
	})

	api.Add(node1())
	a.eventually(a.hasRoutes(peerRoute(3)))
	a.eventually(a.ready)
}

// An empty list is never taken as the wish to have no routes.
func TestAllNodesDeletedRemovesNothing(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.ready)
	api.Clear()
	a.eventually(a.notReady("NodeMissing"))
	a.eventually(func() error { return a.hasProblem("", problem.PruneHeld) })
	a.settle()
	a.eventually(a.hasRoutes(peerRoute(2)))
}
