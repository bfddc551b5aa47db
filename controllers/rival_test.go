package controllers

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Rivals on a clock of the test's own: how often a thing that somebody takes away
// ten times a second is put back.
func TestRepairsBackOff(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := newRivals(func() time.Time { return now })
	route := topology.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Protocol: topology.Protocol, Metric: topology.MetricPeer}
	taken, other := plan.Of(plan.Add, plan.Route{Route: route}), plan.Of(plan.Replace, plan.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"})
	key := plan.Key{Kind: plan.KindRoute, Name: "10.244.2.0/24"}
	repair := func(d time.Duration) (n int) {
		for end := now.Add(d); now.Before(end); now = now.Add(100 * time.Millisecond) {
			if !r.hold(taken).Empty() {
				n++
				r.repaired([]plan.Key{key})
			}
			r.settle()
			if r.hold(other).Empty() {
				t.Fatal("what nobody fights over is held back")
			}
		}
		return n
	}
	if n := repair(time.Second); n != 10 || r.fought(key) {
		t.Errorf("in the first second %d repairs, contested %t; want 10 and no contest", n, r.fought(key))
	}
	if n := repair(59 * time.Second); n < 35 || n > 45 {
		t.Errorf("in the rest of a minute %d repairs, want ten more at once and one every 2 s", n)
	}
	if !r.fought(key) || r.wait() != repairEvery || len(r.problems(nil)) != 1 {
		t.Errorf("contested %t, next look after %s, problems %v", r.fought(key), r.wait(), r.problems(nil))
	}
	now = now.Add(time.Minute)
	r.settle()
	if r.fought(key) || len(r.contests) != 0 || r.wait() != 0 {
		t.Errorf("a minute later it still goes on: %v", r.contests)
	}
}

// What the operator sees of it: a Problem, a count, and a line a minute.
func TestRivalIsTold(t *testing.T) {
	api := useNodes(t)
	api.create(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.settle()
	if n := a.metric("plainroute_repairs_total", nil); n != 0 {
		t.Errorf("%v repairs before anybody did anything", n)
	}
	take := func() {
		a.host.disturb(func() {
			a.host.state.Routes = slices.DeleteFunc(a.host.state.Routes, func(r topology.Route) bool { return r.Metric == topology.MetricPeer })
		})
	}
	begin, taken := time.Now(), 0
	for ; taken < 100 || a.hasProblem("node3", topology.Contested) != nil && time.Since(begin) < limit; taken++ {
		take()
		time.Sleep(5 * time.Millisecond)
	}
	a.eventually(func() error { return a.hasProblem("node2", topology.Contested) })
	repairs := a.metric("plainroute_repairs_total", map[string]string{"kind": "route"})
	took := time.Since(begin)
	if most := 2 * (freeRepairs + 3 + took/repairEvery); repairs < 2*freeRepairs || repairs > float64(most) {
		t.Errorf("two routes taken %d times in %s were put back %v times, want %d to %d", taken, took, repairs, 2*freeRepairs, most)
	}
	a.eventually(func() error {
		take() // again, for they may just have been due
		return errors.Join(
			a.metricIs(2, "plainroute_drift", map[string]string{"kind": "route"})(),
			a.metricIs(2, "plainroute_peers", map[string]string{"state": "missing"})(),
		)
	})
	lines := a.log.with("Repaired again and again")
	if len(lines) != 2 || !strings.Contains(strings.Join(lines, ""), "route 10.244.2.0/24") {
		t.Errorf("the log says %q, want one line for each route", lines)
	}
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
}

// A change that Nodes ask for is no repair, and never waits.
func TestNodesAreNoRivals(t *testing.T) {
	api := useNodes(t)
	api.create(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	for range 2 * freeRepairs {
		api.remove("node2")
		a.eventually(a.hasRoutes())
		api.create(peer(2))
		a.eventually(a.hasRoutes(peerRoute(2)))
	}
	if n := a.metric("plainroute_repairs_total", nil); n != 0 {
		t.Errorf("%v of Nodes' changes counted as repairs", n)
	}
}

// Something that flushes the whole table every second fights over thousands of routes: they cost a pass next to nothing.
func TestFiveThousandFights(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := newRivals(func() time.Time { return now })
	var keys []plan.Key
	var nodes []*topology.Node
	for i := range 5000 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		keys = append(keys, plan.Key{Kind: plan.KindRoute, Name: subnet.String()})
		nodes = append(nodes, &topology.Node{Name: "node-" + subnet.String(), PodCIDRs: []netip.Prefix{subnet}})
	}
	for range freeRepairs {
		r.repaired(keys)
	}
	var problems []topology.Problem
	least := time.Hour
	for range 5 { // others may have had the machine meanwhile
		begin := time.Now()
		r.settle()
		problems = r.problems(nodes)
		least = min(least, time.Since(begin))
	}
	if least > time.Second/4 {
		t.Errorf("it takes %s", least)
	}
	if len(problems) != manyRoutes+1 || problems[0].Node != "node-"+keys[0].Name || !strings.Contains(problems[manyRoutes].Detail, "4980 more routes") {
		t.Errorf("%d problems: %v", len(problems), problems)
	}
}

// Who looks for a rival is sent to what can show it: no monitor of routes shows who writes a sysctl.
func TestWitness(t *testing.T) {
	for kind, want := range map[plan.Kind]string{
		plan.KindSysctl: "what writes sysctls", plan.KindTable: "nft monitor", plan.KindCNI: "auditctl", plan.KindRoute: "ip monitor", plan.KindAddress: "ip monitor",
	} {
		r := rivals{fights: []plan.Key{{Kind: kind, Name: "it"}}}
		if got := r.problems(nil)[0].Detail; !strings.Contains(got, want) {
			t.Errorf("of a %s: %q does not name %s", kind, got, want)
		}
	}
}
