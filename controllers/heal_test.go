package controllers

import (
	"fmt"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// An object that another process removes or changes is repaired after the kernel's notification.
func TestHostIsHealed(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	var want topology.State
	a.host.with(func() { want = a.host.copyState() })
	h := a.host
	for name, damage := range map[string]func(){
		"a route is gone":      func() { h.dropRoute(route("10.244.2.0/24", "192.168.1.12")) },
		"a route is changed":   func() { h.putRoute(route("10.244.2.0/24", "192.168.1.99")) },
		"all routes are gone":  func() { h.state.Routes = nil },
		"a route is left over": func() { h.putRoute(route("10.244.9.0/24", "192.168.1.19")) },
		"the table is gone":    func() { h.state.Masquerade = nil },
		"a setting is off":     func() { h.state.Sysctls[topology.SysctlForward4] = "0" },
		"the CNI config is gone": func() {
			h.state.CNI = nil
		},
		"the CNI config is another": func() { h.state.CNI = &topology.CNI{Bridge: "br0"} },
	} {
		h.disturb(damage)
		a.eventually(func() error {
			var err error
			h.with(func() {
				if s := h.state; !slices.EqualFunc(s.Routes, want.Routes, topology.SameRoute) || s.Masquerade == nil || !s.CNI.Equal(want.CNI) ||
					s.Sysctls[topology.SysctlForward4] != "1" {
					err = fmt.Errorf("%s: state is %+v", name, s)
				}
			})
			return err
		})
	}
	a.eventually(a.ready)
}

// A foreign route that the kernel prefers is reported, and kept.
func TestForeignRouteIsLeftAlone(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	foreign := route("10.244.2.0/24", "192.168.1.254")
	foreign.Protocol, foreign.Metric = 4, 0
	a.host.disturb(func() { a.host.facts.Routes = append(a.host.facts.Routes, foreign) })
	a.eventually(func() error { return a.hasProblem("node2", problem.RouteConflict) })
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2))) // stands by
	a.host.disturb(func() {
		a.host.facts.Routes = slices.DeleteFunc(slices.Clone(a.host.facts.Routes), func(r topology.Route) bool { return r == foreign })
	})
	a.eventually(a.noProblems)
}
