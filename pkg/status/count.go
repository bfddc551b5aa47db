package status

import (
	"net/netip"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// PeerStates returns all states.
func PeerStates() []PeerState { return []PeerState{OK, Missing, Conflict, OffLink, Refused, Failed} }

// CountPeers counts the pod subnets of other Nodes by their state after the pass: a route that it
// could not restore is missing.
func (r *Result) CountPeers() map[PeerState]int {
	counts := map[PeerState]int{}
	problemsByNode := r.problemsByNode()
	lost := map[netip.Prefix]bool{}
	for _, route := range plan.Objects[plan.Route](r.Undone, plan.Add, plan.Replace) {
		lost[route.Dst] = route.Metric == topology.MetricPeer
	}
	for _, n := range r.Nodes {
		if n.Name == r.Node {
			continue
		}
		for _, subnet := range n.PodCIDRs {
			state := r.peer(n, subnet, problemsByNode[n.Name]).State
			if state == OK && lost[subnet] {
				state = Missing
			}
			counts[state]++
		}
	}
	return counts
}
