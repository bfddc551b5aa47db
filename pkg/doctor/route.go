package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// foreignRoutes looks for routes of others that overlap a pod subnet: a more specific
// one, or one that the kernel prefers, takes the traffic.
func foreignRoutes(_ context.Context, p *Patient) []problem.Problem {
	if p.KernelErr != nil {
		return Skip("the kernel can't be looked at: "+p.KernelErr.Error(), "")
	}
	var found []problem.Problem
	taken := 0
	for _, r := range p.Host.Routes {
		i := slices.IndexFunc(p.State.Routes, func(ours topology.Route) bool { return p.takes(r, ours) })
		if i < 0 {
			continue
		}
		if taken++; taken <= manyFindings {
			found = append(found, Fail(fmt.Sprintf("a route of somebody else's takes packets for the pods of %s", p.State.Routes[i].Dst), r.String(), cureOf(r)))
		}
	}
	if taken > manyFindings {
		found = append(found, Fail(fmt.Sprintf("%d more routes of others' take packets for pods", taken-manyFindings), "", "see them all: `ip route; ip -6 route`"))
	}
	return found
}

// takes reports whether a foreign route takes packets for the pods of ours. To a part of our own
// subnet only one that leads nowhere or off this host does: other networks lead to a pod of theirs
// by a route.
func (p *Patient) takes(r, ours topology.Route) bool {
	standsBy := r.Dst == ours.Dst && r.TOS == 0 && r.Metric > ours.Metric
	if r.Dst.Bits() < ours.Dst.Bits() || !ours.Dst.Overlaps(r.Dst) || standsBy || p.bridged(r, ours.Dst) {
		return false
	}
	return ours.Metric != topology.MetricOwn || r.Dst == ours.Dst || r.LeavesOwnSubnet(p.State.Bridge, p.uplinks())
}

// uplinks are the links that bear the InternalIPs, by their names.
func (p *Patient) uplinks() map[string]bool {
	names := map[string]bool{}
	if p.Report != nil {
		for _, u := range p.Report.Host.Uplinks {
			names[u.Name] = true
		}
	}
	return names
}

// kernelMade is RTPROT_KERNEL of linux/rtnetlink.h: a route that comes and goes with an
// address of this host. Who deletes it may cut the host off.
const kernelMade = 2

func cureOf(r topology.Route) string {
	if r.Protocol == kernelMade {
		return "an address of " + r.Dev + " brings it: the pod subnets (--cluster-cidr of the controller manager) overlap a network of this host, and one of them has to be another; leave the route, or this node may be cut off"
	}
	return "find who makes it (its protocol: /etc/iproute2/rt_protos), or if nothing needs it: `ip route del " + r.String() + "`"
}

// bridged tells the routes that the kernel makes for the bridge's own addresses, whatever its name is now.
func (p *Patient) bridged(r topology.Route, subnet netip.Prefix) bool {
	return r.Dst == subnet && r.Dev != "" && (r.Dev == p.State.Bridge || r.Dev == p.renamedBridge())
}
