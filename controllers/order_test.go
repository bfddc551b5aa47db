package controllers

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

// The CNI config makes kubelet say Ready, so the kernel has been read once more
// between the last change to it and the config.
func TestCNIConfigComesLast(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	done := a.host.since(0)
	last := slices.Index(done, "cni")
	if last < 0 || slices.ContainsFunc(done[last+1:], func(s string) bool { return s != "observe" }) {
		t.Fatalf("the CNI config is not the last of %q", done)
	}
	for _, kind := range []string{"sysctl " + topology.SysctlForward4, "table", "add 10.244.2.0/24", "add 10.244.3.0/24", "add unreachable 10.244.1.0/24"} {
		if !contains(done[:last], kind) {
			t.Errorf("no %q before the CNI config in %q", kind, done)
		}
	}
	if done[last-1] != "observe" {
		t.Errorf("the kernel was not read between %q and the CNI config", done[last-1])
	}
}

// If what was written can't be read back, pods would come up on a node that does
// not work.
func TestCNIConfigWaitsForTheKernel(t *testing.T) {
	for name, damage := range map[string]func(*memoryHost){
		"an error":            func(h *memoryHost) { h.refusedApply = syscall.ENOMEM },
		"no error, no effect": func(h *memoryHost) { h.forgetful = true },
	} {
		t.Run(name, func(t *testing.T) {
			api := useNodes(t)
			api.Add(node1(), peer(2))
			a := startAgent(t, agentOptions{host: damage})
			a.eventually(a.notReady("KernelFailed"))
			a.settleFailing()
			if done := a.host.since(0); slices.Contains(done, "cni") {
				t.Errorf("the CNI config was written in %q", done)
			}
			a.host.with(func() { a.host.refusedApply, a.host.forgetful = nil, false })
			a.eventually(a.ready)
		})
	}
}

// Make before break: in one pass, additions, then replacements, then removals;
// and a destination is in the sets before its route, and after it.
func TestDeletesComeAfterAdds(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	n := len(a.host.since(0))
	a.host.inOnePass(func() {
		api.Remove("node2")
		api.Add(peer(4))
		api.Remove("node3")
		api.Add(newNode("node5", "10.244.3.0/24", "192.168.1.15"))
		a.eventually(a.sees("node1", "node4", "node5"))
	})
	a.eventually(a.hasRoutes("10.244.3.0/24 via 192.168.1.15", peerRoute(4)))
	a.eventually(a.ready)
	wantOrder(t, a.host.since(n), "widen", "add 10.244.4.0/24", "replace 10.244.3.0/24", "delete 10.244.2.0/24", "narrow")
}

func wantOrder(t *testing.T, done []string, order ...string) {
	t.Helper()
	at := -1
	for _, step := range order {
		i := slices.IndexFunc(done, func(s string) bool { return strings.HasPrefix(s, step) })
		if i <= at {
			t.Fatalf("%q is not after the step before it in %q", step, done)
		}
		at = i
	}
}
