package doctor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// foreignRoutes looks for foreign routes that overlap a pod subnet and take precedence over ours.
func foreignRoutes(_ context.Context, t *Target) []problem.Problem {
	var found []problem.Problem
	for _, r := range t.Host.Beside() {
		if i := slices.IndexFunc(t.State.Routes, func(ours *topology.Route) bool { return t.takes(r, ours) }); i >= 0 {
			found = append(found, Fail(fmt.Sprintf("a foreign route takes packets for the pods of %s", t.State.Routes[i].Dst), r.String(), t.routeRemedy(r))...)
		}
	}
	return capped(found, "foreign routes take packets for pods", "`ip route; ip -6 route`")
}

// takes reports whether a foreign route takes packets for the pods of ours. For a part of our own
// subnet only a route that leads nowhere or off this host does, because other networks route to
// single pods of theirs.
func (t *Target) takes(r topology.Route, ours *topology.Route) bool {
	standsBy := r.Dst == ours.Dst && r.TOS == 0 && r.Metric > ours.Metric
	if r.Dst.Bits() < ours.Dst.Bits() || !ours.Dst.Overlaps(r.Dst) || standsBy || t.bridged(r, ours.Dst) {
		return false
	}
	uplinks := map[string]bool{}
	for _, name := range t.uplinks() {
		uplinks[name] = true
	}
	return ours.Metric != topology.MetricOwn && ours.Metric != topology.MetricBridge || r.Dst == ours.Dst || r.LeavesOwnSubnet(t.State.Bridge, uplinks)
}

// kernelMade is RTPROT_KERNEL of linux/rtnetlink.h: the route of an address of this host.
const kernelMade = 2

func (t *Target) routeRemedy(r topology.Route) string {
	if r.Protocol == kernelMade {
		return "it belongs to an address of " + r.Dev + ": the pod subnets (--cluster-cidr of the controller manager) overlap a network of this host, and one of them has to be another; leave the route, or this node may be cut off"
	}
	route := r.String()
	if t.State.RouteTable != 0 {
		route = topology.TableRoute{Route: r, Table: t.State.RouteTable}.String()
	}
	return "find the program that adds it (its protocol: /etc/iproute2/rt_protos), or if nothing needs it: `ip route del " + route + "`"
}

// table returns the name of the table with our routes for ip-route(8).
func (t *Target) table() string {
	if t.State.RouteTable == 0 {
		return "main"
	}
	return strconv.Itoa(t.State.RouteTable)
}

// bridged reports whether a route is that of the bridge's address, under its present name.
func (t *Target) bridged(r topology.Route, subnet netip.Prefix) bool {
	return r.Dst == subnet && r.Dev != "" && (r.Dev == t.State.Bridge || r.Dev == t.renamedBridge())
}

// reversePath looks for links that drop packets from peers' pods because replies would leave by
// another link (strict mode of RFC 3704). The effective rp_filter is the maximum of the device's
// and that of all (ip-sysctl.rst).
func reversePath(_ context.Context, t *Target) []problem.Problem {
	if t.Report == nil {
		return Skip("the agent does not answer, so the uplinks are unknown", "for the reason: plainroute status")
	}
	strict := map[string]string{}
	for _, name := range t.uplinks() {
		if path, ok := t.strict(name); ok && t.hasInternalIP4(name) {
			strict[name] = path
		}
	}
	for _, r := range t.State.Routes {
		if !r.ToPeer() || !r.Dst.Addr().Is4() || strict[r.Dev] != "" {
			continue
		}
		for _, dev := range slices.Sorted(maps.Keys(strict)) {
			return Fail("packets from peers' pods by "+dev+" are dropped, because replies leave by "+r.Dev,
				fmt.Sprintf("%s=1, and the route is %s", strict[dev], r), "loosen it: `sysctl -w net/ipv4/conf/"+dev+"/rp_filter=2`")
		}
	}
	return nil
}

// hasInternalIP4 reports whether a link has an InternalIP of IPv4, where packets for pods arrive.
func (t *Target) hasInternalIP4(dev string) bool {
	return slices.ContainsFunc(t.Host.Links, func(l topology.Link) bool {
		return l.Name == dev && slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool {
			return a.Addr().Is4() && slices.Contains(t.Report.Host.Addresses, a.Addr())
		})
	})
}

// strict reports whether a device has strict reverse path filtering, and the setting's path.
func (t *Target) strict(dev string) (string, bool) {
	worst, at := 0, ""
	for _, name := range []string{"all", dev} {
		path := topology.ConfSysctl(4, name, "rp_filter")
		if n, err := t.number(path); err == nil && n > worst {
			worst, at = n, path
		}
	}
	return at, worst == 1
}
