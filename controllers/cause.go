package controllers

import (
	"maps"

	"github.com/plainroute/plainroute/pkg/plan"
)

// cause says why a pass changes anything that is no repair. Where both Nodes and this
// host have news, it is the Nodes.
func (r *NodeReconciler) cause() string {
	switch {
	case r.asked == nil:
		return causeStart
	case r.moved:
		return causeNode
	}
	return causeHost
}

// count tells metrics what was made and why, and returns how much that is. What a pass
// before could not make was never there, so it is no repair: it is made now for the
// reason that it was asked for then.
func (r *NodeReconciler) count(done plan.Changes, repairs []plan.Key) int {
	causes := make(map[plan.Key]string, len(r.postponed)+len(repairs))
	maps.Copy(causes, r.postponed)
	var genuine []plan.Key
	for _, k := range repairs {
		if causes[k] == "" {
			causes[k] = causeRepair
			genuine = append(genuine, k)
		}
	}
	r.Metrics.repaired(genuine)
	return r.Metrics.applied(done, r.cause(), causes)
}

// postpone notes at the end of a pass what it left undone, and why that was asked for;
// not what somebody had undone, which stays a repair.
func (r *NodeReconciler) postpone() {
	left := r.undone.Keys()
	if len(left) == 0 {
		r.postponed = nil
		return
	}
	before := r.postponed
	r.postponed = make(map[plan.Key]string, len(left))
	for _, k := range left {
		r.postponed[k] = r.cause()
	}
	if r.asked != nil && r.asking != nil {
		for _, k := range r.undone.Repairs(*r.asked, *r.asking) {
			delete(r.postponed, k)
		}
	}
	for _, k := range left {
		if was := before[k]; was != "" {
			r.postponed[k] = was
		}
	}
}
