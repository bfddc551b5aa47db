package status

import (
	"net/netip"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Observe returns the State of the kernel and the CNI folder.
type Observe func() (topology.State, error)

// observe compares the host with the desired State of the last Result. If a pass ends meanwhile, it
// starts over.
func observe(latest *Latest, actualState Observe) (*Result, Drift, plan.Changes) {
	last := latest.Last()
	var actual topology.State
	var err error
	for range 3 {
		if !last.Known {
			return last, Drift{Differences: []problem.Problem{}}, nil
		}
		actual, err = actualState()
		next := latest.Last()
		if next == last {
			break
		}
		last = next
	}
	d := Drift{Time: time.Now().UTC(), Differences: []problem.Problem{}}
	if err != nil {
		d.Error = err.Error()
		return last, d, nil
	}
	changes := plan.Diff(last.Desired, actual)
	d.Differences = append(d.Differences, Differences(changes, last.Host.Config)...)
	return last, d, changes
}

// Differences returns Changes from the actual State as Problems; config is the path of our CNI
// config.
func Differences(c plan.Changes, config string) []problem.Problem {
	var all []problem.Problem
	bridge := len(plan.Objects[plan.Bridge](c, plan.Add)) > 0
	for _, x := range c.Distinct() {
		if d, ok := x.Object.(plan.Device); ok && bridge && d.Master == "" {
			continue // it is missing as a whole
		}
		var about problem.Subject
		if r, ok := x.Object.(plan.Route); ok {
			about.Subnet = r.Dst
		}
		all = append(all, problem.New(differenceOf(x), about, "%s %s", x.Kind(), nameOf(x.Object, config)))
	}
	return all
}

func differenceOf(c plan.Change) problem.Reason {
	if _, sets := c.Object.(plan.Sets); sets {
		return problem.Altered
	}
	return map[plan.Op]problem.Reason{plan.Add: problem.Missing, plan.Replace: problem.Altered, plan.Delete: problem.Unwanted}[c.Op]
}

func nameOf(o plan.Object, config string) string {
	switch o := o.(type) {
	case plan.Config:
		return config
	case plan.Device:
		if o.LinkLocal {
			return o.String() + ", with an IPv6 link-local address"
		}
	}
	return o.String()
}

// markMissing changes the state of peers whose routes the kernel lacks.
func markMissing(peers []Peer, c plan.Changes) {
	reasons := map[netip.Prefix]string{}
	for _, r := range plan.Objects[plan.Route](c, plan.Add) {
		if r.Metric == topology.MetricPeer {
			reasons[r.Dst] = "the kernel lacks the route " + r.String()
		}
	}
	for _, r := range plan.Objects[plan.Route](c, plan.Replace) {
		if r.Metric == topology.MetricPeer {
			reasons[r.Dst] = "the kernel has another route instead of " + r.String()
		}
	}
	for i := range peers {
		p := &peers[i]
		message, missing := reasons[p.Subnet]
		if !missing || p.State != OK {
			continue
		}
		p.State, p.Since = Missing, time.Time{} // since an unknown time
		if p.Message != "" {
			message += "; " + p.Message
		}
		p.Message = message
	}
}

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
