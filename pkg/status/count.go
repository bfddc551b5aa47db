package status

import (
	"net/netip"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// PeerStates returns all there are.
func PeerStates() []PeerState { return []PeerState{OK, Lost, Conflict, OffLink, Refused, Failed} }

// CountPeers counts the pod subnets of other Nodes by state, as they were after the
// pass: what it could not put back is missing.
func (r *Result) CountPeers() map[PeerState]int {
	counts := map[PeerState]int{}
	plights := r.plights()
	lost := map[netip.Prefix]bool{}
	for _, route := range plan.Objects[plan.Route](r.Undone, plan.Add, plan.Replace) {
		lost[route.Dst] = route.Metric == topology.MetricPeer
	}
	for _, n := range r.Nodes {
		if n.Name == r.Node {
			continue
		}
		for _, subnet := range n.PodCIDRs {
			state := r.peer(n, subnet, plights[n.Name]).State
			if state == OK && lost[subnet] {
				state = Lost
			}
			counts[state]++
		}
	}
	return counts
}
