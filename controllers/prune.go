package controllers

import (
	"slices"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// fewPeers may all leave at once; of more, the loss of more than half is confirmed.
const fewPeers = 10

// prune leaves removals out of changes until the view can be trusted with them, and
// says why.
func (r *NodeReconciler) prune(view View, changes plan.Changes, desired, actual topology.State) (plan.Changes, []topology.Problem) {
	if !changes.Removes() {
		r.heldSince = time.Time{}
		return changes, nil
	}
	why := ""
	switch {
	case !r.knows(view.Nodes, desired, actual):
		why = "until our own Node is in the list"
		if r.Options.Router {
			why = "until one of the routes that are there belongs to a Node of the list; if this is another cluster than before, remove the old routes by hand"
		}
	case !view.Cached && !massive(changes, actual):
	case !r.confirmed(view):
		why = "until the API server confirms, by a list that is not from its cache, that their Nodes are gone"
		if view.Doubt != nil {
			why += ": " + view.Doubt.Error()
		}
	}
	if why == "" {
		r.heldSince = time.Time{}
		return changes, nil
	}
	return changes.WithoutRemovals(), []topology.Problem{{Reason: topology.PruneHeld, Detail: "what no Node asks for stays " + why}}
}

// knows tells whether the list is of our cluster: our own Node is in it; a router,
// which has none, must find one of its routes asked for.
func (r *NodeReconciler) knows(nodes []*topology.Node, desired, actual topology.State) bool {
	if !r.Options.Router {
		return slices.ContainsFunc(nodes, func(n *topology.Node) bool { return n.Name == r.Options.NodeName })
	}
	return slices.ContainsFunc(desired.Routes, func(want topology.Route) bool {
		_, there := slices.BinarySearchFunc(actual.Routes, want, topology.Route.Compare)
		return there
	})
}

// massive tells whether more than half of many peers would be cut off.
func massive(c plan.Changes, actual topology.State) bool {
	peers, gone := 0, 0
	for _, route := range actual.Routes {
		if route.Metric == topology.MetricPeer {
			peers++
		}
	}
	for _, route := range c.Delete {
		if route.Metric == topology.MetricPeer {
			gone++
		}
	}
	return peers >= fewPeers && 2*gone > peers
}

// confirmed asks for a quorum read, and tells whether one has agreed since the
// first pass that needed it.
func (r *NodeReconciler) confirmed(view View) bool {
	if r.heldSince.IsZero() {
		r.heldSince = time.Now()
	}
	if view.Confirmed.After(r.heldSince) {
		return true
	}
	r.Nodes.Confirm()
	return false
}
