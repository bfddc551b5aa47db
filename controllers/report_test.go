package controllers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// report asks as people do.
func (a *agent) report() status.Report {
	a.t.Helper()
	code, body := a.get("/status")
	var r status.Report
	if err := json.Unmarshal([]byte(body), &r); err != nil || code != http.StatusOK {
		a.t.Fatalf("status is %d, %v", code, err)
	}
	return r
}

// peerIs returns an error unless f accepts the only peer of a Node.
func (a *agent) peerIs(node string, f func(status.Peer) bool) func() error {
	return func() error {
		for _, p := range a.report().Peers {
			if p.Node == node && f(p) {
				return nil
			}
		}
		return fmt.Errorf("%s is %+v", node, a.report().Peers)
	}
}

func inState(want status.PeerState) func(status.Peer) bool {
	return func(p status.Peer) bool { return p.State == want }
}

// A report shows what this node is, and how fresh its view is.
func TestReportOfThisNode(t *testing.T) {
	begin := time.Now()
	a := newSingle(t, agentOptions{
		host: func(h *memoryHost) {
			h.facts.Ports, h.facts.ConfigsBefore = 3, []string{"00-multus.conf", "05-other.conf"}
		},
		edit: func(o *topology.Options) {
			o.ConfigsBefore, o.ClusterCIDRs = []string{"00-multus.conf"}, []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")}
		},
	})
	a.list(node1(), peer(2))
	a.memory.edit(func(v *nodes.View) bool { v.LastContact = time.Now(); return false })
	a.pass()
	got := a.report()
	own := topology.NodeFrom(node1())
	want := status.Host{
		Addresses: own.Addrs, Subnets: own.PodCIDRs, Uplinks: []status.Uplink{{Name: "eth0", MTU: 1500}},
		ClusterCIDRs: a.loop.Options.ClusterCIDRs, ConfigsBefore: []string{"00-multus.conf"},
		MTU: 1500, Encapsulation: "never", Bridge: "plainroute0", Ports: 3, Config: "/etc/cni/net.d/10-plainroute.conflist",
	}
	if fmt.Sprint(got.Host) != fmt.Sprint(want) {
		t.Errorf("the host is %+v, want %+v", got.Host, want)
	}
	if got.API.LastEvent.Before(begin) || !got.API.Synced || got.API.Error != "" {
		t.Errorf("the API is %+v", got.API)
	}
	if len(got.Passes) == 0 || got.Passes[0] != got.Pass || got.Passes[len(got.Passes)-1].Number != 1 {
		t.Errorf("the passes are %+v", got.Passes)
	}
	if len(got.Drift.Differences) != 0 || got.Drift.Time.Before(begin) {
		t.Errorf("the drift is %+v", got.Drift)
	}
	for _, c := range got.Conditions {
		if c.Status != metav1.ConditionTrue && c.Name != "cni-first" {
			t.Errorf("%s is %s", c.Name, c.Status)
		}
	}
	a.host.refusedFacts = errors.New("no such device")
	for range 40 {
		a.pass()
	}
	if again := a.report(); fmt.Sprint(again.Host) != fmt.Sprint(want) || !again.API.Synced || len(again.State.Routes) != len(got.State.Routes) {
		t.Errorf("where it can't be looked at, the host is %+v, the API %+v, what should be there %+v", again.Host, again.API, again.State)
	}
	if got := a.report().Passes; len(got) != 32 || got[0].Number != got[31].Number+31 {
		t.Errorf("there are %d passes", len(got))
	}
}

// Since when a peer is as it is moves with its state, and with nothing else.
func TestPeersAreDated(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.settle()
	first := a.since("node2")
	if first.IsZero() || first != a.since("node3") {
		t.Fatalf("node2 is there since %s, node3 since %s", first, a.since("node3"))
	}

	a.host.disturb(func() { a.host.dropRoute(route("10.244.2.0/24", "192.168.1.12")) })
	a.eventually(a.peerIs("node2", func(p status.Peer) bool { return !p.Repaired.IsZero() && p.State == status.OK && p.Since.Equal(first) }))
	a.eventually(a.peerIs("node3", func(p status.Peer) bool { return p.Repaired.IsZero() && p.Since.Equal(first) }))

	a.host.disturb(func() { a.host.facts.Routes = append(a.host.facts.Routes, foreign(2)) })
	a.eventually(a.peerIs("node2", func(p status.Peer) bool {
		return p.State == status.Conflict && p.Since.After(first) && p.Message != "" && slices.Equal(p.Reason, []problem.Reason{problem.RouteConflict})
	}))
	conflict := a.since("node2")
	a.onePassMore()
	if again := a.since("node2"); again != conflict {
		t.Errorf("a conflict since %s is one since %s after a pass", conflict, again)
	}
	a.host.disturb(func() {
		a.host.facts.Routes = slices.DeleteFunc(slices.Clone(a.host.facts.Routes), func(r topology.Route) bool { return r == foreign(2) })
	})
	a.eventually(a.peerIs("node2", func(p status.Peer) bool {
		return p.State == status.OK && p.Since.After(conflict) && p.Message == "" && !p.Repaired.IsZero()
	}))

	api.Add(peer(4))
	a.eventually(a.peerIs("node4", func(p status.Peer) bool {
		return p.State == status.OK && p.Since.After(conflict) && p.Repaired.IsZero()
	}))
	if a.since("node3") != first {
		t.Errorf("node3 is there since %s, want %s", a.since("node3"), first)
	}
}

func (a *agent) since(node string) time.Time {
	a.t.Helper()
	for _, p := range a.report().Peers {
		if p.Node == node {
			return p.Since
		}
	}
	a.t.Fatalf("%s is no peer", node)
	return time.Time{}
}

func foreign(i int) topology.Route {
	r := route(fmt.Sprintf("10.244.%d.0/24", i), "192.168.1.254")
	r.Protocol, r.Metric = 4, 0
	return r
}

// A missing object is reported as missing, also if the agent has not noticed it, and while it can't
// read the host.
func TestDriftIsSeen(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.settle()
	a.host.with(func() { // and the kernel sends no notification
		a.host.dropRoute(route("10.244.2.0/24", "192.168.1.12"))
		a.host.state.Masquerade = nil
	})
	a.eventually(a.peerIs("node2", func(p status.Peer) bool { return p.State == status.Missing && p.Message != "" && p.Via.IsValid() }))
	a.eventually(a.peerIs("node3", inState(status.OK)))
	if got := a.report().Drift.Differences; len(got) != 2 || got[1].Reason != problem.Missing || got[0].Message != "nftables table inet plainroute" {
		t.Errorf("the differences are %+v", got)
	}
	a.host.disturb(func() { a.host.refusedObserve = errors.New("no memory") })
	a.eventually(func() error {
		if r := a.report(); r.Drift.Error != "no memory" || r.Ready || len(r.Peers) != 2 || !r.Peers[0].Via.IsValid() {
			return fmt.Errorf("ready %t, drift %+v, peers %+v", r.Ready, r.Drift, r.Peers)
		}
		return nil
	})
	a.host.disturb(func() { a.host.refusedObserve = nil })
	a.eventually(a.peerIs("node2", inState(status.OK)))
	a.eventually(a.ready)
}

// The garbage of a pass is collected soon after it.
func TestGarbageOfAPassIsCollected(t *testing.T) {
	s := newSingle(t, agentOptions{})
	runtime.GC()
	before := memStats()
	made := make([]byte, (before.NextGC-before.HeapAlloc)/2)
	defer runtime.KeepAlive(&made)
	s.pass()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if memStats().NumGC > before.NumGC {
			return
		}
	}
	t.Error("half the way to the next collection is gone, and nothing collects")
}

func memStats() runtime.MemStats {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats
}
