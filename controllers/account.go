package controllers

import (
	"net/netip"
	"slices"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// hostOf tells operators what this node is.
func (r *NodeReconciler) hostOf(facts topology.Host, desired topology.State) status.Host {
	h := status.Host{
		Router: r.Options.Router, Encapsulation: "never",
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
	own := r.Nodes.node(r.Options.NodeName)
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

// touchedBy is what a pass did to peers: who has a route by it, which routes it only put back, and
// whose Problems came or went.
func touchedBy(done plan.Changes, repairs []plan.Key, before, after map[topology.Problem]bool) status.Touched {
	var t status.Touched
	for _, route := range plan.Objects[plan.Route](done, plan.Add, plan.Replace) {
		t.Route(route.Dst)
	}
	for _, k := range repairs {
		if p, err := netip.ParsePrefix(k.Name); err == nil { // as a route to a peer is named
			t.Repair(p)
		}
	}
	touchNodes(&t, before, after)
	touchNodes(&t, after, before)
	return t
}

// touchNodes notes the Nodes whose Problems are in one set alone.
func touchNodes(t *status.Touched, a, b map[topology.Problem]bool) {
	for p := range a {
		if !b[p] {
			t.Node(p.Node)
		}
	}
}

// api tells how well the Nodes are known.
func (v View) api() status.API {
	api := status.API{Synced: v.Synced, Heard: v.Heard}
	if v.Err != nil {
		api.Error = v.Err.Error()
	}
	return api
}

// API tells how well the Nodes are known at this moment.
func (s *NodeSource) API() status.API {
	s.mu.Lock()
	defer s.mu.Unlock()
	return View{Synced: s.synced, Err: s.lastErr, Heard: s.heardAt()}.api()
}

// hear notes that the API server has sent something: an answer, an event, or a
// bookmark, which it sends about once a minute when there is nothing else to tell
// (defaultBookmarkFrequency of k8s.io/apiserver/pkg/storage/cacher).
func (s *NodeSource) hear() { s.heard.Store(time.Now().UnixNano()) }

func (s *NodeSource) heardAt() time.Time {
	at := s.heard.Load()
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(0, at).UTC()
}

// node returns the Node of a name, nil if there is none.
func (s *NodeSource) node(name string) *topology.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, known := s.index[name]; known {
		return s.nodes[i]
	}
	return nil
}
