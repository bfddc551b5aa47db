package controllers

import (
	"time"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A removal that cuts off more than half of fewPeers or more peers must be confirmed.
const fewPeers = 10

// removals are the objects whose removal waits until the view is confirmed.
type removals struct {
	state *topology.State // nil: none wait
	since time.Time       // since when they wait for a confirmation; zero: they don't
}

// prune returns the changes from actual to desired. It leaves out removals that the view does not
// justify yet, with a Problem that gives the reason. The objects that it keeps are part of the desired
// state, so that they are repaired. On a router each removal must be confirmed, because no Node of its own
// shows that a list is of its cluster.
func (r *NodeReconciler) prune(view nodes.View, desired, actual topology.State) (topology.State, plan.Changes, []problem.Problem) {
	before := actual
	if r.held.state != nil {
		before = plan.Joined(actual, *r.held.state)
	}
	changes := plan.Diff(desired, before)
	why := r.waitReason(view, changes, before, desired)
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
		[]problem.Problem{{Reason: problem.PruneHeld, Message: "objects that no Node needs stay " + why}}
}

// waitReason returns what removals wait for, "": the changes have none, or the view justifies them.
func (r *NodeReconciler) waitReason(view nodes.View, changes plan.Changes, before, desired topology.State) string {
	switch {
	case !changes.Removes():
		return ""
	case r.Options.Router && len(view.Nodes) == 0:
		return "until the list of Nodes is not empty"
	case !r.Options.Router && r.ownNode(view.Nodes) == nil:
		return "until our own Node is in the list"
	case !r.Options.Router && !view.Cached && !massive(changes, before, desired):
		return ""
	case r.confirmed(view):
		return ""
	}
	why := "until a list from etcd, not from the API server's cache, confirms that their Nodes are gone"
	if view.ConfirmErr != nil {
		why += ": " + view.ConfirmErr.Error()
	}
	return why
}

// ownNode returns this node's own Node, or nil.
func (r *NodeReconciler) ownNode(all []*topology.Node) *topology.Node {
	for _, n := range all {
		if n.Name == r.Options.NodeName {
			return n
		}
	}
	return nil
}

// massive reports whether more than half of fewPeers or more peers would be cut off. Routes in another
// table count if none takes their place.
func massive(c plan.Changes, before, desired topology.State) bool {
	peers, gone := 0, 0
	for _, route := range before.Routes {
		if route.ToPeer() {
			peers++
		}
	}
	for _, route := range plan.Objects[plan.Route](c, plan.Delete) {
		if route.ToPeer() && topology.InPlaceOf(desired.Routes, &route.Route) == nil {
			gone++
		}
	}
	for _, stray := range plan.Objects[plan.StrayRoute](c, plan.Delete) {
		if topology.InPlaceOf(desired.Routes, &stray.Route) == nil && stray.ToPeer() {
			peers, gone = peers+1, gone+1
		}
	}
	return peers >= fewPeers && 2*gone > peers
}

// confirmed reports whether a quorum read has agreed that began after the first pass that needed one.
// Otherwise it starts one.
func (r *NodeReconciler) confirmed(view nodes.View) bool {
	if r.held.since.IsZero() {
		r.held.since = time.Now()
	}
	if view.Confirmed.After(r.held.since) {
		return true
	}
	r.Nodes.Confirm(r.held.since)
	return false
}
