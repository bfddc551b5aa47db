package doctor

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/plainroute/plainroute/pkg/topology"
)

// foreignRoutes looks for routes of others that overlap a pod subnet: a more specific
// one, or one that the kernel prefers, takes the traffic.
func foreignRoutes(_ context.Context, p *Patient) []Finding {
	if p.KernelErr != nil {
		return Skip("the kernel can't be looked at: "+p.KernelErr.Error(), "")
	}
	var found []Finding
	for _, r := range p.Host.Routes {
		for _, ours := range p.State.Routes {
			if r.Dst.Bits() < ours.Dst.Bits() || !ours.Dst.Overlaps(r.Dst) || p.bridged(r, ours.Dst) {
				continue
			}
			found = append(found, Fail(fmt.Sprintf("a route of somebody else's takes packets for the pods of %s", ours.Dst), r.String(),
				"find who makes it (its protocol: /etc/iproute2/rt_protos), or remove it: ip route del "+r.String()))
			break
		}
	}
	return found
}

// bridged tells the routes that the kernel makes for the bridge's own addresses.
func (p *Patient) bridged(r topology.Route, subnet netip.Prefix) bool {
	return p.State.Bridge != "" && r.Dev == p.State.Bridge && r.Dst == subnet
}
