package controllers

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// An object that is removed ten times a second is repaired at once for a while, and then every 2 s.
func TestRepairsBackOff(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := newFlapGuard(func() time.Time { return now })
	route := topology.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix("10.244.2.0/24"))}
	taken, other := plan.Of(plan.Add, plan.Route{Route: route}), plan.Of(plan.Replace, plan.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"})
	key := plan.Key{Kind: plan.KindRoute, Name: "10.244.2.0/24"}
	repair := func(d time.Duration) (n int) {
		for end := now.Add(d); now.Before(end); now = now.Add(100 * time.Millisecond) {
			if !r.filter(taken).Empty() {
				n++
				r.repaired([]plan.Key{key})
			}
			r.settle()
			if r.filter(other).Empty() {
				t.Fatal("a change of an object that does not flap is delayed")
			}
		}
		return n
	}
	if n := repair(time.Second); n != 10 || r.isFlapping(key) {
		t.Errorf("in the first second %d repairs, flapping %t; want 10 and no flap", n, r.isFlapping(key))
	}
	if n := repair(59 * time.Second); n < 35 || n > 45 {
		t.Errorf("in the rest of a minute %d repairs, want ten more at once and one every 2 s", n)
	}
	if !r.isFlapping(key) || r.wait() != repairInterval || len(r.problems(nil)) != 1 {
		t.Errorf("flapping %t, next look after %s, problems %v", r.isFlapping(key), r.wait(), r.problems(nil))
	}
	now = now.Add(time.Minute)
	r.settle()
	if r.isFlapping(key) || len(r.objects) != 0 || r.wait() != 0 {
		t.Errorf("a minute later it still goes on: %v", r.objects)
	}
}

// A flap is reported as a Problem and in the metrics, and logged once a minute.
func TestFlapIsReported(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.settle()
	if n := a.metric("plainroute_repairs_total", nil); n != 0 {
		t.Errorf("%v repairs before anybody did anything", n)
	}
	take := func() {
		a.host.disturb(func() {
			a.host.state.Routes = slices.DeleteFunc(a.host.state.Routes, func(r *topology.Route) bool { return r.ToPeer() })
		})
	}
	begin, taken := time.Now(), 0
	for ; taken < 100 || a.hasProblem("node3", problem.Contested) != nil && time.Since(begin) < limit; taken++ {
		take()
		time.Sleep(5 * time.Millisecond)
	}
	a.eventually(func() error { return a.hasProblem("node2", problem.Contested) })
	repairs := a.metric("plainroute_repairs_total", map[string]string{"kind": "route"})
	took := time.Since(begin)
	if most := 2 * (immediateRepairs + 3 + took/repairInterval); repairs < 2*immediateRepairs || repairs > float64(most) {
		t.Errorf("two routes taken %d times in %s were put back %v times, want %d to %d", taken, took, repairs, 2*immediateRepairs, most)
	}
	a.eventually(func() error {
		take() // again, because a repair may just have been due
		return errors.Join(
			a.metricIs(2, "plainroute_drift", map[string]string{"kind": "route"})(),
			a.metricIs(2, "plainroute_peers", map[string]string{"state": "missing"})(),
		)
	})
	lines := a.log.with("Repaired repeatedly")
	if len(lines) != 2 || !strings.Contains(strings.Join(lines, ""), "route 10.244.2.0/24") {
		t.Errorf("the log says %q, want one line for each route", lines)
	}
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
}

// A change that follows from the Nodes is not a repair, and is never delayed.
func TestNodeChangesAreNotRepairs(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2)))
	for range 2 * immediateRepairs {
		api.Remove("node2")
		a.eventually(a.hasRoutes())
		api.Add(peer(2))
		a.eventually(a.hasRoutes(peerRoute(2)))
	}
	if n := a.metric("plainroute_repairs_total", nil); n != 0 {
		t.Errorf("%v of Nodes' changes counted as repairs", n)
	}
}

// Thousands of routes flap if another process flushes the whole table every second; a pass takes hardly longer.
func TestFiveThousandFlaps(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := newFlapGuard(func() time.Time { return now })
	var keys []plan.Key
	var nodes []*topology.Node
	for i := range 5000 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		keys = append(keys, plan.Key{Kind: plan.KindRoute, Name: subnet.String()})
		nodes = append(nodes, &topology.Node{Name: "node-" + subnet.String(), PodCIDRs: []netip.Prefix{subnet}})
	}
	for range immediateRepairs {
		r.repaired(keys)
	}
	var problems []problem.Problem
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
	if len(problems) != maxRouteLines+1 || problems[0].Node != "node-"+keys[0].Name || !strings.Contains(problems[maxRouteLines].Message, "4980 more routes") {
		t.Errorf("%d problems: %v", len(problems), problems)
	}
}

// The remediation of a flap names the tool that shows the other process.
func TestMonitorHint(t *testing.T) {
	for kind, want := range map[plan.Kind]string{
		plan.KindSysctl: "programs that write sysctls", plan.KindTable: "nft monitor", plan.KindCNI: "auditctl", plan.KindRoute: "ip monitor", plan.KindAddress: "ip monitor",
	} {
		r := flapGuard{flaps: []plan.Key{{Kind: kind, Name: "it"}}}
		if got := r.problems(nil)[0].Remediation; !strings.Contains(got, want) {
			t.Errorf("of a %s: %q does not name %s", kind, got, want)
		}
	}
}
