package controllers

import (
	"slices"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// fewPeers may all leave at once; of more, the loss of more than half is confirmed.
const fewPeers = 10

// removals are those that wait for a view that can be trusted with them.
type removals struct {
	state *topology.State // what stays although no Node asks for it; nil: nothing does
	since time.Time       // since when, if it waits for a confirmation
}

// prune returns the changes from actual to desired, less removals until the view can
// be trusted with them, and says why. What is held is desired meanwhile, so that it
// is repaired as the rest is. A router, which has no Node of its own to tell a list of
// its cluster by, has each removal confirmed.
func (r *NodeReconciler) prune(view View, desired, actual topology.State) (topology.State, plan.Changes, []topology.Problem) {
	before := actual
	if r.held.state != nil {
		before = plan.Joined(actual, *r.held.state)
	}
	changes := plan.Diff(desired, before)
	why := r.mistrust(view, changes, before)
	if why == "" {
		if r.held.state != nil {
			changes = plan.Diff(desired, actual)
		}
		r.held = removals{}
		return desired, changes, nil
	}
	held := changes.Removed()
	r.held.state, desired = &held, plan.Joined(desired, held)
	return desired, plan.Diff(desired, actual).WithoutRemovals(),
		[]topology.Problem{{Reason: topology.PruneHeld, Detail: "what no Node asks for stays " + why}}
}

// mistrust says for how long the view can't be trusted with the changes, if they
// remove anything.
func (r *NodeReconciler) mistrust(view View, changes plan.Changes, before topology.State) string {
	switch {
	case !changes.Removes():
		return ""
	case r.Options.Router && len(view.Nodes) == 0:
		return "until the list of Nodes is not empty"
	case !r.Options.Router && !r.knows(view.Nodes):
		return "until our own Node is in the list"
	case !r.Options.Router && !view.Cached && !massive(changes, before):
		return ""
	case r.confirmed(view):
		return ""
	}
	why := "until the API server confirms, by a list that is not from its cache, that their Nodes are gone"
	if view.Doubt != nil {
		why += ": " + view.Doubt.Error()
	}
	return why
}

// knows tells whether our own Node is in the list.
func (r *NodeReconciler) knows(nodes []*topology.Node) bool {
	return slices.ContainsFunc(nodes, func(n *topology.Node) bool { return n.Name == r.Options.NodeName })
}

// massive tells whether more than half of many peers would be cut off.
func massive(c plan.Changes, before topology.State) bool {
	peers, gone := 0, 0
	for _, route := range before.Routes {
		if route.Metric == topology.MetricPeer {
			peers++
		}
	}
	for _, route := range plan.Objects[plan.Route](c, plan.Delete) {
		if route.Metric == topology.MetricPeer {
			gone++
		}
	}
	return peers >= fewPeers && 2*gone > peers
}

// confirmed asks for a quorum read, and tells whether one has agreed that
// began after the first pass that needed it.
func (r *NodeReconciler) confirmed(view View) bool {
	if r.held.since.IsZero() {
		r.held.since = time.Now()
	}
	if view.Confirmed.After(r.held.since) {
		return true
	}
	r.Nodes.Confirm(r.held.since)
	return false
}
