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
// before could not make is made now for the reason that it was asked for then.
func (r *NodeReconciler) count(done plan.Changes, repairs []plan.Key) int {
	tally, cause := done.Tally(), r.cause()
	if len(r.postponed) == 0 && len(repairs) == 0 {
		r.Metrics.applied(tally, cause)
	} else {
		r.countEach(done, repairs, cause)
	}
	return tally.Sum()
}

// countEach is for passes that changed things for several reasons.
func (r *NodeReconciler) countEach(done plan.Changes, repairs []plan.Key, cause string) {
	causes := map[plan.Key]string{}
	maps.Copy(causes, r.postponed)
	for _, k := range repairs {
		causes[k] = causeRepair
	}
	r.Metrics.repaired(repairs)
	rest := done
	for _, one := range []string{causeStart, causeNode, causeHost, causeRepair} {
		others := rest.Without(func(k plan.Key) bool {
			c, known := causes[k]
			return c == one || !known && one == cause
		})
		r.Metrics.applied(rest.Minus(others).Tally(), one)
		rest = others
	}
	r.Metrics.applied(rest.Tally(), cause) // the table, where it went in with routes of another cause
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
