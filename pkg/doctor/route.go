package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// foreignRoutes looks for foreign routes that overlap a pod subnet and take precedence over ours.
func foreignRoutes(_ context.Context, t *Target) []problem.Problem {
	var found []problem.Problem
	for _, r := range t.Host.Routes {
		if i := slices.IndexFunc(t.State.Routes, func(ours topology.Route) bool { return t.takes(r, ours) }); i >= 0 {
			found = append(found, Fail(fmt.Sprintf("a foreign route takes packets for the pods of %s", t.State.Routes[i].Dst), r.String(), routeRemedy(r))...)
		}
	}
	return capped(found, "foreign routes take packets for pods", "`ip route; ip -6 route`")
}

// takes reports whether a foreign route takes packets for the pods of ours. For a part of our own
// subnet only a route that leads nowhere or off this host does, because other networks route to
// single pods of theirs.
func (t *Target) takes(r, ours topology.Route) bool {
	standsBy := r.Dst == ours.Dst && r.TOS == 0 && r.Metric > ours.Metric
	if r.Dst.Bits() < ours.Dst.Bits() || !ours.Dst.Overlaps(r.Dst) || standsBy || t.bridged(r, ours.Dst) {
		return false
	}
	uplinks := map[string]bool{}
	for _, name := range t.uplinks() {
		uplinks[name] = true
	}
	return ours.Metric != topology.MetricOwn || r.Dst == ours.Dst || r.LeavesOwnSubnet(t.State.Bridge, uplinks)
}

// kernelMade is RTPROT_KERNEL of linux/rtnetlink.h: the route of an address of this host.
const kernelMade = 2

func routeRemedy(r topology.Route) string {
	if r.Protocol == kernelMade {
		return "it belongs to an address of " + r.Dev + ": the pod subnets (--cluster-cidr of the controller manager) overlap a network of this host, and one of them has to be another; leave the route, or this node may be cut off"
	}
	return "find the program that adds it (its protocol: /etc/iproute2/rt_protos), or if nothing needs it: `ip route del " + r.String() + "`"
}

// bridged reports whether a route is that of the bridge's address, under its present name.
func (t *Target) bridged(r topology.Route, subnet netip.Prefix) bool {
	return r.Dst == subnet && r.Dev != "" && (r.Dev == t.State.Bridge || r.Dev == t.renamedBridge())
}
