package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/test/apiserver"
)

// restart ends an agent, has something happen, and starts another one on its host with what it saved.
func (a *agent) restart(o agentOptions, meanwhile func(*nodes.Saved)) *agent {
	a.t.Helper()
	a.stop()
	saved := a.nodes.Saved()
	saved.Grants = a.latest.Last().Desired.Grants()
	meanwhile(saved)
	file, err := saved.Encode()
	if err != nil {
		a.t.Fatal(err)
	}
	if saved, err = nodes.Decode(file, saved.Identity, time.Now()); err != nil {
		a.t.Fatal(err)
	}
	o.on = a.host
	b := newAgent(a.t, o)
	b.nodes.Restore(saved)
	b.run()
	return b
}

// An agent that starts without an API server repairs by what it saved, and removes nothing.
func TestRestartWithoutAPIServer(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	gate, config := apiserver.NewGate(t, api.Reader)
	gate.Open()
	a := startAgent(t, agentOptions{config: config})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.eventually(a.ready)

	stale := route("10.244.9.0/24", "192.168.1.19")
	a = a.restart(agentOptions{config: config}, func(*nodes.Saved) {
		gate.Shut()
		a.host.with(func() {
			a.host.dropRoute(route("10.244.2.0/24", "192.168.1.12"))
			a.host.putRoute(stale)
		})
		api.Remove("node3")
	})
	kept := fmt.Sprintf("%s via %s", stale.Dst, stale.Via)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3), kept))
	a.eventually(a.ready)
	a.eventually(func() error { return a.hasDetail("PruneHeld", "until a list from etcd") })
	a.host.disturb(func() { a.host.dropRoute(route("10.244.3.0/24", "192.168.1.13")) })
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3), kept))

	gate.Open()
	a.within(comeBack, a.hasRoutes(peerRoute(2)))
	a.eventually(a.ready)
}

// A Node that left while the agent was away loses its route, and no other one is touched.
func TestRestartFindsANodeGone(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.eventually(a.ready)
	done := 0
	o := agentOptions{config: api.Reader}
	a = a.restart(o, func(*nodes.Saved) {
		done = len(a.host.since(0))
		api.Remove("node3")
	})
	a.eventually(a.hasRoutes(peerRoute(2)))
	changed := slices.DeleteFunc(a.host.since(done), func(line string) bool { return !strings.Contains(line, " via ") })
	if len(changed) != 1 {
		t.Errorf("the restart changed the routes %q, want one", changed)
	}
}

// dispute starts an agent that has granted a subnet to "owner" before "elder", an older Node with the same address, claimed it.
func dispute(t *testing.T, api clusterNodes) *agent {
	t.Helper()
	api.Add(newNode("elder", "192.168.1.12"), node1(), newNode("owner", "10.244.2.0/24", "192.168.1.12"))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes("10.244.2.0/24 via 192.168.1.12"))
	api.Edit("elder", func(n *corev1.Node) { n.Spec = peer(2).Spec })
	a.eventually(func() error { return a.hasDetail("PodCIDRDisputed", "belongs to node owner") })
	return a
}

// A disputed subnet stays with whom it was granted to across a restart, although the kernel knows the
// address alone, which is the older Node's too.
func TestDisputeOutlivesARestart(t *testing.T) {
	api := useNodes(t)
	a := dispute(t, api)
	a = a.restart(agentOptions{config: api.Reader}, func(*nodes.Saved) {
		api.EditStatus("owner", func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.168.1.13" })
	})
	a.eventually(a.hasRoutes("10.244.2.0/24 via 192.168.1.13"))
	a.eventually(func() error { return a.hasDetail("PodCIDRDisputed", "belongs to node owner") })
}

// A grant to a Node that was made again is none to its successor, which has the same name.
func TestGrantOfAnotherNodeIsIgnored(t *testing.T) {
	api := useNodes(t)
	a := dispute(t, api)
	a = a.restart(agentOptions{config: api.Reader}, func(saved *nodes.Saved) {
		api.Remove("owner")
		api.Add(newNode("owner", "10.244.2.0/24", "192.168.1.13"))
		if len(saved.Grants) == 0 {
			t.Error("no grants are saved")
		}
	})
	a.eventually(a.hasRoutes("10.244.2.0/24 via 192.168.1.12"))
	a.eventually(func() error { return a.hasDetail("PodCIDRDisputed", "belongs to node elder") })
}
