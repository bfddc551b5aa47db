package controllers

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/plainroute/plainroute/pkg/idle"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/ratelog"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// settleAfter is when a pass follows one with many changes, whose notifications come first.
const settleAfter = 10 * time.Millisecond

// report publishes the outcome of a pass, and returns when the next one is due, 0: after the next change.
func (r *NodeReconciler) report(ctx context.Context, p *pass) time.Duration {
	outcome := r.ledger.Record(entry{
		nodesChanged: p.nodesChanged(), saw: p.saw, wanted: p.result.Desired, done: p.done, left: p.left,
		complete: p.err == nil, held: r.held.state != nil,
	})
	changes := r.Metrics.applied(p.done, outcome)
	r.flaps.repaired(outcome.repairs)
	r.logChanges(logr.FromContextOrDiscard(ctx), p.done.Without(r.flaps.isFlapping))
	r.flaps.settle()
	r.flaps.log(ctx)
	p.result.Undone = outcome.left
	wait := r.addProblems(p)
	p.result.Pass = status.Pass{Number: r.Latest.Last().Pass.Number + 1, Time: p.begin, Duration: time.Since(p.begin), Changes: changes}
	p.result.Passes = status.Recent(r.Latest.Last().Passes, p.result.Pass)
	p.result.Ready = len(p.result.Blocking()) == 0
	r.publish(logr.FromContextOrDiscard(ctx), p, outcome)
	r.Metrics.reported(p.result, blocks(p.err, r.Options))
	if r.NodeStatus != nil {
		r.NodeStatus.Update(p.result.Ready, p.view.Own)
	}
	if r.Events != nil {
		r.Events.Update(p.result)
	}
	settle := r.settleWait(p)
	r.gc.AfterPass()
	return idle.Soonest(r.retry(p), r.flaps.wait(), r.log.Wait(), formerPodsWait(p.result.Problems), wait, settle)
}

// settleWait returns when to compute the desired state again after a pass that changed much, 0: not. That
// pass finds nothing to do, and the next change costs only what it changes.
func (r *NodeReconciler) settleWait(p *pass) time.Duration {
	if r.ledger.incremental.Ready() || p.err != nil || len(p.done) == 0 {
		return 0
	}
	return settleAfter
}

// addProblems adds the Problems that Desired did not find, and returns when to look for them again, 0: after
// the next change.
func (r *NodeReconciler) addProblems(p *pass) time.Duration {
	all := &p.result.Problems
	if p.err != nil {
		*all = append(*all, problemsOf(p.err, p.view.Nodes, r.Options)...)
	}
	*all = append(*all, r.flaps.problems(p.view.Nodes)...)
	if r.NodeStatus != nil {
		*all = append(*all, r.NodeStatus.Problems()...)
	}
	if r.Services != nil {
		_, problems := r.Services.Ranges()
		*all = append(*all, problems...)
	}
	unread, wait := r.unread.problem(p.result, p.view.Own, r.ConfigPath)
	*all = append(*all, unread...)
	slices.SortFunc(*all, problem.Problem.Compare)
	return wait
}

// publish publishes the result, and logs what has changed.
func (r *NodeReconciler) publish(logger logr.Logger, p *pass, by outcome) {
	before := r.Latest.Last()
	was, is := sets.New[problem.Problem](), sets.New(p.result.Problems...)
	if before.Pass.Number > 0 {
		was.Insert(before.Problems...)
	}
	r.Latest.History.Note(before, p.result, touchedBy(p.done, by.repairs, is.SymmetricDifference(was)))
	r.Latest.Publish(p.result)
	r.logProblems(logger, "Problem", is.Difference(was))
	r.logProblems(logger, "Problem gone", was.Difference(is))
	if p.result.Ready != before.Ready {
		r.log.Info(logger, ratelog.Key{Kind: "readiness"}, "Readiness changed", "ready", p.result.Ready, "nodes", len(p.view.Nodes))
	}
	r.log.Flush(logger)
}

// hostOf returns the part of a report that describes this node.
func (r *NodeReconciler) hostOf(all []*topology.Node, facts topology.Host, desired topology.State) status.Host {
	h := status.Host{
		Router: r.Options.Router, Encapsulation: cmp.Or(r.Options.Encapsulation, topology.EncapsulateNever),
		Bridge: r.Options.Bridge, Ports: facts.Ports, Config: r.ConfigPath, ClusterCIDRs: r.Options.ClusterCIDRs,
	}
	if desired.CNI != nil {
		h.MTU = desired.CNI.MTU
	}
	for _, name := range facts.ConfigsBefore {
		if slices.Contains(r.Options.ConfigsBefore, name) {
			h.ConfigsBefore = append(h.ConfigsBefore, name)
		}
	}
	own := r.ownNode(all)
	if own == nil || r.Options.Router {
		return h
	}
	h.Addresses, h.Subnets = own.Addrs, own.PodCIDRs
	isOwn := func(p netip.Prefix) bool { return slices.Contains(own.Addrs, p.Addr()) }
	for _, link := range facts.Links {
		if slices.ContainsFunc(link.Addrs, isOwn) {
			h.Uplinks = append(h.Uplinks, status.Uplink{Name: link.Name, MTU: link.MTU})
		}
	}
	return h
}

// touchedBy returns which peers a pass changed: by new routes, by repaired routes, and by
// Problems that appeared or disappeared.
func touchedBy(done plan.Changes, repairs []plan.Key, changed sets.Set[problem.Problem]) status.Touched {
	var t status.Touched
	for route := range plan.Each[plan.Route](done, plan.Add, plan.Replace) {
		t.Route(route.Dst)
	}
	for _, k := range repairs {
		if p, err := netip.ParsePrefix(k.Name); err == nil { // the name of a route to a peer
			t.Repair(p)
		}
	}
	for p := range changed {
		t.Node(p.Node)
	}
	return t
}

// APIStatus returns the part of a report that describes the connection to the API server.
func APIStatus(h nodes.Health) status.API {
	api := status.API{Synced: h.Synced, LastEvent: h.LastContact}
	if h.Err != nil {
		api.Error = h.Err.Error()
	}
	return api
}

const maxRouteLines = 20 // how many changed routes, or Problems of a Reason, are logged one by one

// logProblems logs Problems. If a Reason has very many, as when a link goes down, it logs their number
// and the first one.
func (r *NodeReconciler) logProblems(logger logr.Logger, message string, all sets.Set[problem.Problem]) {
	byReason := map[problem.Reason][]problem.Problem{}
	for p := range all {
		byReason[p.Reason] = append(byReason[p.Reason], p)
	}
	for reason, problems := range byReason {
		slices.SortFunc(problems, problem.Problem.Compare)
		if n := len(problems); n > maxRouteLines {
			r.log.Info(logger, ratelog.Key{Kind: string(reason), Name: "many"}, message, "reason", reason, "count", n, "one", problems[0].String())
			continue
		}
		for _, p := range problems {
			details := []any{"node", p.Node, "reason", p.Reason, "detail", p.Message, "blocksReadiness", p.BlocksReady}
			if p.Remediation != "" && p.Remediation != reason.Remediation() {
				details = append(details, "remediation", p.Remediation)
			}
			r.log.Info(logger, ratelog.Key{Kind: string(reason), Name: "of " + p.Node}, message, details...)
		}
	}
}

// logChanges logs the changes that were made; of very many routes, neighbors or FDB entries it logs
// their number.
func (r *NodeReconciler) logChanges(logger logr.Logger, c plan.Changes) {
	counts := map[plan.Kind]map[plan.Op]int{plan.KindRoute: {}, plan.KindNeighbor: {}, plan.KindFDB: {}}
	for _, x := range c {
		if of := counts[x.Kind()]; of != nil {
			of[x.Op]++
		}
	}
	many := func(k plan.Kind) bool {
		return counts[k][plan.Add]+counts[k][plan.Replace]+counts[k][plan.Delete] > maxRouteLines
	}
	for kind, message := range map[plan.Kind]string{plan.KindRoute: "Changed routes", plan.KindNeighbor: "Changed neighbors", plan.KindFDB: "Changed FDB entries"} {
		if many(kind) {
			r.log.Info(logger, ratelog.Key{Kind: kind.Label(), Name: "many"}, message, "added", counts[kind][plan.Add], "replaced", counts[kind][plan.Replace], "deleted", counts[kind][plan.Delete])
		}
	}
	for _, x := range c {
		if _, sets := x.Object.(plan.Sets); !sets && !many(x.Kind()) { // sets follow the routes
			key := x.Key()
			r.log.Info(logger, ratelog.Key{Kind: string(key.Kind), Name: key.Name}, verb(x)+" "+string(key.Kind), key.Kind.Label(), x.Object.String())
		}
	}
}

// verb returns the past tense of what a change does.
func verb(c plan.Change) string {
	kind := c.Kind()
	switch {
	case c.Op == plan.Delete:
		return "Deleted"
	case kind == plan.KindTable, kind == plan.KindCNI:
		return "Wrote"
	case kind == plan.KindSysctl, kind == plan.KindDevice:
		return "Set"
	case c.Op == plan.Replace:
		return "Replaced"
	}
	return "Added"
}
