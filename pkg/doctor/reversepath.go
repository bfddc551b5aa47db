package doctor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

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
		if r.Metric != topology.MetricPeer || !r.Dst.Addr().Is4() || strict[r.Dev] != "" {
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
