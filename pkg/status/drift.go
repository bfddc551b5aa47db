package status

import (
	"net/netip"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// DriftAdvice says what to do about Differences.
const DriftAdvice = "Shown is what should be. The agent puts things right within moments; what stays so, somebody undoes (ip monitor, nft monitor), or the agent's log says why."

// Look tells what of ours is in the kernel and in the CNI folder at this moment.
type Look func() (topology.State, error)

// look looks at the host and tells how it differs from what is desired. What is
// desired may change meanwhile, by a pass of which the next look sees the whole.
func look(board *Board, at Look) (*Result, Drift, plan.Changes) {
	last := board.Last()
	var actual topology.State
	var err error
	for range 3 {
		if !last.Known {
			return last, Drift{Differences: []Difference{}}, plan.Changes{}
		}
		actual, err = at()
		next := board.Last()
		if next == last {
			break
		}
		last = next
	}
	d := Drift{Time: time.Now().UTC(), Differences: []Difference{}}
	if err != nil {
		d.Error = err.Error()
		return last, d, plan.Changes{}
	}
	changes := plan.Diff(last.Desired, actual)
	d.Differences = append(d.Differences, Differences(changes, actual, last.Host.Config)...)
	return last, d, changes
}

// Differences puts Changes from the actual State into words; config is the path of
// our CNI config.
func Differences(c plan.Changes, actual topology.State, config string) []Difference {
	var all []Difference
	say := func(kind plan.Kind, fault Fault, name string) { all = append(all, Difference{kind, fault, name}) }
	for _, s := range c.Sysctls {
		say(plan.KindSysctl, Altered, s.Path+"="+s.Value)
	}
	if c.AddBridge != nil {
		say(plan.KindBridge, Missing, c.AddBridge.Name)
	}
	for _, d := range c.SetDevices {
		if c.AddBridge == nil || d.Name != c.AddBridge.Name {
			say(plan.KindDevice, Altered, deviceText(d))
		}
	}
	for _, a := range c.AddAddresses {
		say(plan.KindAddress, Missing, a.String())
	}
	for _, a := range c.DeleteAddresses {
		say(plan.KindAddress, Unwanted, a.String())
	}
	for _, routes := range []struct {
		fault Fault
		list  []topology.Route
	}{{Missing, c.Add}, {Altered, c.Replace}, {Unwanted, c.Delete}} {
		for _, r := range routes.list {
			say(plan.KindRoute, routes.fault, r.String())
		}
	}
	if c.DeleteBridge != "" {
		say(plan.KindBridge, Unwanted, c.DeleteBridge)
	}
	if fault := faultOf(c.Table != nil || !c.Widen.Empty() || !c.Narrow.Empty(), c.DeleteTable, actual.Masquerade != nil); fault != "" {
		say(plan.KindTable, fault, "inet "+topology.Table)
	}
	if fault := faultOf(c.CNI != nil, c.DeleteCNI, actual.CNI != nil); fault != "" {
		say(plan.KindCNI, fault, config)
	}
	return all
}

func deviceText(d topology.Device) string {
	if d.LinkLocal {
		return d.String() + ", with an IPv6 link-local address"
	}
	return d.String()
}

// faultOf says what is wrong with a thing of which there is one.
func faultOf(written, deleted, there bool) Fault {
	switch {
	case deleted:
		return Unwanted
	case written && there:
		return Altered
	case written:
		return Missing
	}
	return ""
}

// lose marks the peers whose routes the kernel lacks.
func lose(peers []Peer, c plan.Changes) {
	lost := make(map[netip.Prefix]string, len(c.Add)+len(c.Replace))
	for _, r := range c.Add {
		if r.Metric == topology.MetricPeer {
			lost[r.Dst] = "the kernel lacks the route " + r.String()
		}
	}
	for _, r := range c.Replace {
		if r.Metric == topology.MetricPeer {
			lost[r.Dst] = "the kernel has another route instead of " + r.String()
		}
	}
	for i := range peers {
		p := &peers[i]
		why, gone := lost[p.Subnet]
		if !gone || p.State != OK {
			continue
		}
		p.State, p.Since = Lost, time.Time{} // since when, nobody saw
		if p.Detail != "" {
			why += "; " + p.Detail
		}
		p.Detail = why
	}
}
