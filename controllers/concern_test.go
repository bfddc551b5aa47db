package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// The host is asked for the routes that matter to the Nodes there are, as they come and go.
func TestConcernsFollowNodes(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.eventually(a.asksFor("10.244.0.0/16", "192.168.0.0/16"))
	far := peer(3)
	far.Spec.PodCIDR, far.Spec.PodCIDRs = "10.77.3.0/24", []string{"10.77.3.0/24"}
	api.Add(far)
	a.eventually(a.asksFor("10.77.0.0/16", "10.244.0.0/16", "192.168.0.0/16"))

	theirs := topology.Route{Dst: netip.MustParsePrefix("10.77.3.0/24"), Via: netip.MustParseAddr("192.168.1.254"), Dev: "eth0", Protocol: 4}
	a.host.disturb(func() { a.host.facts.Routes = append(a.host.facts.Routes, theirs) })
	a.eventually(func() error { return a.hasProblem("node3", problem.RouteConflict) })
}

// asksFor returns an error unless the last pass asked for routes in these IPv4 ranges.
func (a *agent) asksFor(ranges ...string) func() error {
	return func() error {
		a.host.mu.Lock()
		defer a.host.mu.Unlock()
		var got []string
		for _, p := range a.host.concerns {
			if p.Addr().Is4() {
				got = append(got, p.String())
			}
		}
		if !slices.Equal(got, ranges) {
			return fmt.Errorf("routes are asked for in %v, want %v", got, ranges)
		}
		return nil
	}
}
