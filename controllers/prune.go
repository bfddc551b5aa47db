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
// says why. A router, which has no Node of its own to tell a list of its cluster
// by, has each removal confirmed.
func (r *NodeReconciler) prune(view View, changes plan.Changes, actual topology.State) (plan.Changes, []topology.Problem) {
	if !changes.Removes() {
		r.heldSince = time.Time{}
		return changes, nil
	}
	why := ""
	switch {
	case r.Options.Router && len(view.Nodes) == 0:
		why = "until the list of Nodes is not empty"
	case !r.Options.Router && !r.knows(view.Nodes):
		why = "until our own Node is in the list"
	case !r.Options.Router && !view.Cached && !massive(changes, actual):
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

// knows tells whether our own Node is in the list.
func (r *NodeReconciler) knows(nodes []*topology.Node) bool {
	return slices.ContainsFunc(nodes, func(n *topology.Node) bool { return n.Name == r.Options.NodeName })
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

// confirmed asks for a quorum read, and tells whether one has agreed that
// began after the first pass that needed it.
func (r *NodeReconciler) confirmed(view View) bool {
	if r.heldSince.IsZero() {
		r.heldSince = time.Now()
	}
	if view.Confirmed.After(r.heldSince) {
		return true
	}
	r.Nodes.Confirm(r.heldSince)
	return false
}
