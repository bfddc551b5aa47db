package status

import (
	"net/netip"

	"github.com/plainroute/plainroute/pkg/topology"
)

// PeerStates returns all there are.
func PeerStates() []PeerState { return []PeerState{OK, Lost, Conflict, OffLink, Refused, Failed} }

// CountPeers counts the pod subnets of other Nodes by state, as they were after the
// pass: what it could not put back is missing.
func (r *Result) CountPeers() map[PeerState]int {
	counts := map[PeerState]int{}
	plights := r.plights()
	lost := make(map[netip.Prefix]bool, len(r.Undone.Add)+len(r.Undone.Replace))
	for _, routes := range [][]topology.Route{r.Undone.Add, r.Undone.Replace} {
		for _, route := range routes {
			lost[route.Dst] = route.Metric == topology.MetricPeer
		}
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
