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
		before := last
		if last = latest.Last(); last == before {
			break
		}
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
	for op, reason := range map[plan.Op]string{plan.Add: "the kernel lacks the route ", plan.Replace: "the kernel has another route instead of "} {
		for _, r := range plan.Objects[plan.Route](c, op) {
			if r.ToPeer() {
				reasons[r.Dst] = reason + r.String()
			}
		}
	}
	for i := range peers {
		p := &peers[i]
		message, missing := reasons[p.Subnet]
		if !missing || p.State != OK {
			continue
		}
		if p.Message != "" {
			message += "; " + p.Message
		}
		p.State, p.Message, p.Since = Missing, message, time.Time{} // since an unknown time
	}
}

// PeerStates returns all states.
func PeerStates() []PeerState { return []PeerState{OK, Missing, Conflict, OffLink, Refused, Failed} }

// CountPeers counts the pod subnets of other Nodes by their state after the pass: a route that it
// could not restore is missing.
func (r *Result) CountPeers() map[PeerState]int {
	counts := map[PeerState]int{}
	lost := map[netip.Prefix]bool{}
	for _, route := range plan.Objects[plan.Route](r.Undone, plan.Add, plan.Replace) {
		lost[route.Dst] = route.ToPeer()
	}
	r.eachPeer(func(p Peer, _ *topology.Route) {
		if p.State == OK && lost[p.Subnet] {
			p.State = Missing
		}
		counts[p.State]++
	})
	return counts
}
