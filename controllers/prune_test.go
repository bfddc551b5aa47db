package controllers

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// confirmations lets the agent's quorum lists through, or refuses them, and counts.
type confirmations struct {
	next    http.RoundTripper
	allowed atomic.Bool
	count   atomic.Int32
}

func withConfirmations(t *testing.T) (*confirmations, *rest.Config) {
	c := &confirmations{}
	config := rest.CopyConfig(apiserver.Start(t).Reader)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		c.next = next
		return c
	})
	return c, config
}

// RoundTrip passes a request on unless it asks for metadata only.
func (c *confirmations) RoundTrip(q *http.Request) (*http.Response, error) {
	if strings.Contains(q.Header.Get("Accept"), "PartialObjectMetadataList") {
		c.count.Add(1)
		if q.URL.Query().Has("resourceVersion") {
			return nil, errors.New("this is no quorum read: " + q.URL.String())
		}
		if !c.allowed.Load() {
			return nil, errors.New("no confirmation yet")
		}
	}
	return c.next.RoundTrip(q)
}

// leaveBehind puts a route on the host that an agent made before for Node i.
func leaveBehind(i int) func(*memoryHost) {
	return func(h *memoryHost) {
		subnet := netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i))
		h.state.Routes = append(h.state.Routes, &topology.Route{
			Dst: subnet, Via: netip.MustParseAddr(fmt.Sprintf("192.168.1.%d", 10+i)),
			Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(subnet),
		})
	}
}

// A list that the server gave from its cache may be of any age: what it lacks may
// be there. Before anything is removed by it a quorum read has to agree.
func TestPruneAfterACachedListIsConfirmed(t *testing.T) {
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, false)
	api := useNodes(t)
	api.Add(node1(), peer(2))
	gate, config := withConfirmations(t)
	a := startAgent(t, agentOptions{config: config, host: leaveBehind(9)})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(9)))
	a.eventually(a.ready)
	a.eventually(func() error { return a.hasProblem("", problem.PruneHeld) })
	a.eventually(func() error {
		for _, p := range a.problems("") {
			if strings.Contains(p.Message, "no confirmation yet") {
				return nil
			}
		}
		a.host.disturb(func() {})
		return fmt.Errorf("the report does not say why: %v", a.problems(""))
	})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(9)))

	gate.allowed.Store(true)
	a.eventually(a.hasRoutes(peerRoute(2)))
	asked := gate.count.Load()
	api.Remove("node2")
	a.eventually(a.hasRoutes())
	a.settle()
	if n := gate.count.Load(); n != asked {
		t.Errorf("after a list was confirmed, %d more confirmations", n-asked)
	}
}

// A streamed list is as fresh as a quorum read, so nothing waits.
func TestPruneAfterAStreamedListNeedsNoConfirmation(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	gate, config := withConfirmations(t)
	a := startAgent(t, agentOptions{config: config, host: leaveBehind(9)})
	a.eventually(a.hasRoutes(peerRoute(2)))
	if n := gate.count.Load(); n > 0 {
		t.Errorf("%d confirmations", n)
	}
}

// The loss of most peers at once must be confirmed, because it is more likely a mistake.
func TestLossOfMostPeersIsConfirmed(t *testing.T) {
	api := useNodes(t)
	api.Add(node1())
	var all []string
	for i := 2; i <= 13; i++ {
		api.Add(peer(i))
		all = append(all, fmt.Sprintf("node%d", i))
	}
	gate, config := withConfirmations(t)
	a := startAgent(t, agentOptions{config: config})
	a.eventually(a.ready)
	a.eventually(func() error { return a.routeCount(12) })
	seen := slices.Sorted(slices.Values(all[5:]))
	a.host.inOnePass(func() {
		for _, name := range all[:5] {
			api.Remove(name)
		}
		a.eventually(a.sees(append([]string{"node1"}, seen...)...))
	})
	a.eventually(a.hasRoutes(peerRoute(7), peerRoute(8), peerRoute(9), peerRoute(10), peerRoute(11), peerRoute(12), peerRoute(13)))
	if n := gate.count.Load(); n > 0 {
		t.Fatalf("the loss of few peers needed %d confirmations", n)
	}
	api.Add(peer(14), peer(15), peer(16))
	a.eventually(func() error { return a.routeCount(10) })
	a.host.inOnePass(func() {
		for _, name := range all[5:11] {
			api.Remove(name)
		}
		a.eventually(a.sees("node1", "node13", "node14", "node15", "node16"))
	})
	a.eventually(func() error { return a.hasProblem("", problem.PruneHeld) })
	a.settle()
	if err := a.routeCount(10); err != nil {
		t.Error(err)
	}
	gate.allowed.Store(true)
	a.eventually(a.hasRoutes(peerRoute(13), peerRoute(14), peerRoute(15), peerRoute(16)))
	a.settle()
	if err := a.hasProblem("", problem.PruneHeld); err == nil {
		t.Error("still held")
	}
}

// On a router each removal must be confirmed, because no Node of its own shows that a list is of
// its cluster. An empty list removes nothing.
func TestRouter(t *testing.T) {
	api := useNodes(t)
	api.Add(peer(2), peer(3))
	gate, config := withConfirmations(t)
	router := func(o *topology.Options) { o.Router, o.NodeName = true, "" }
	a := startAgent(t, agentOptions{config: config, edit: router, host: leaveBehind(9)})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3), peerRoute(9)))
	a.eventually(func() error { return a.hasProblem("", problem.PruneHeld) })
	gate.allowed.Store(true)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	api.Remove("node3")
	a.eventually(a.hasRoutes(peerRoute(2)))
	if n := gate.count.Load(); n < 2 {
		t.Errorf("%d confirmations, want one for each removal", n)
	}
	if code, body := a.get("/readyz"); code != http.StatusOK {
		t.Errorf("a router is not ready: %s", body)
	}
	a.host.with(func() {
		if a.host.state.CNI != nil || a.host.state.Masquerade != nil || a.host.state.Sysctls[topology.SysctlForward4] != "1" {
			t.Errorf("a router forwards, and has neither a CNI config nor a table; got %+v", a.host.state)
		}
	})
	api.Clear()
	a.eventually(func() error { return a.hasProblem("", problem.PruneHeld) })
	a.settle()
	a.eventually(a.hasRoutes(peerRoute(2)))
}

// Objects whose removal waits are repaired.
func TestWhatIsHeldIsRepaired(t *testing.T) {
	api := useNodes(t)
	api.Add(peer(2))
	a := startAgent(t, agentOptions{host: leaveBehind(9)})
	a.eventually(func() error { return a.hasProblem("", problem.PruneHeld) })
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(9)))
	for range 2 {
		a.host.disturb(func() { a.host.state.Routes = nil })
		a.eventually(a.hasRoutes(peerRoute(2), peerRoute(9)))
	}
	api.Add(node1())
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.host.disturb(func() { a.host.state.Routes = nil })
	a.eventually(a.hasRoutes(peerRoute(2)))
}
