// Package status reports the result of a pass: as JSON, in words, and over HTTP.
package status

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// APIVersion is the version of all JSON documents of commands and agents. docs/api.md describes
// what is stable.
const APIVersion = "plainroute.dev/v1alpha1"

// TypeMeta returns the apiVersion and kind that begin a document.
func TypeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: APIVersion, Kind: kind}
}

// Report is the outcome of the last pass. It is never changed once published.
type Report struct {
	metav1.TypeMeta `json:",inline"`
	Version         string `json:"version"`
	Node            string `json:"node"`
	// Ready reports that this node's pods are served.
	Ready bool `json:"ready"`
	// Conditions are the requirements for Ready, as /readyz?verbose lists them.
	Conditions []Condition `json:"conditions"`
	Host       Host        `json:"host"`
	API        API         `json:"api"`
	// Problems begin with those that keep the node from being ready.
	Problems []problem.Problem `json:"problems"`
	// Peers has a row for each pod subnet of another Node.
	Peers []Peer `json:"peers"`
	// State is the desired State of the host.
	State topology.State `json:"state"`
	// Drift is the difference between the kernel and the CNI folder, and State, at the time of the
	// request.
	Drift  Drift  `json:"drift"`
	Pass   Pass   `json:"pass"`   // the last pass
	Passes []Pass `json:"passes"` // the last passes, the newest first
}

// Host describes the node's network.
type Host struct {
	Router        bool                   `json:"router,omitempty"`       // the machine is not a Node and has no pods
	Addresses     []netip.Addr           `json:"addresses"`              // the Node's InternalIPs
	Subnets       []netip.Prefix         `json:"subnets"`                // the Node's pod subnets
	ClusterCIDRs  []netip.Prefix         `json:"clusterCIDRs,omitempty"` // the ranges of --cluster-cidr
	Uplinks       []Uplink               `json:"uplinks"`                // the links with the InternalIPs
	MTU           int                    `json:"mtu"`                    // of the pods in bytes; 0 without a CNI config
	Encapsulation topology.Encapsulation `json:"encapsulation"`
	Bridge        string                 `json:"bridge"`                  // the pods' device
	Ports         int                    `json:"ports"`                   // the number of pods attached to the bridge
	Config        string                 `json:"config"`                  // the path of our CNI config
	ConfigsBefore []string               `json:"configsBefore,omitempty"` // other CNI configs that are allowed to precede ours
}

// Uplink is a link by which peers reach this node.
type Uplink struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"`
}

// API is the state of the watch of Nodes.
type API struct {
	Synced    bool      `json:"synced"`             // there was a full list of Nodes, or a saved one
	LastEvent time.Time `json:"lastEvent,omitzero"` // when the API server last sent anything; zero: never
	Error     string    `json:"error,omitempty"`    // why the last request to the API server failed
}

// Drift is the difference between the kernel and the CNI folder, and the desired State.
type Drift struct {
	// Time is when they were read; zero: never.
	Time time.Time `json:"time,omitzero"`
	// Differences have the Reason Missing, Altered or Unwanted, and as Message the object as
	// operators write it (ip-route(8), ip-address(8), a path). The Subject of a peer's route is its
	// subnet.
	Differences []problem.Problem `json:"differences"`
	// Error is why they can't be read.
	Error string `json:"error,omitempty"`
}

// Pass is one run of the loop.
type Pass struct {
	Number   int64         `json:"number"`
	Time     time.Time     `json:"time"`
	Duration time.Duration `json:"durationNanoseconds"`
	Changes  int           `json:"changes"`
}

// Peer is a pod subnet of another Node, with the state of its route.
type Peer struct {
	Node   string       `json:"node"`
	Subnet netip.Prefix `json:"subnet"`
	// Via and Dev are empty without a route of ours.
	Via netip.Addr `json:"via"`
	Dev string     `json:"dev,omitempty"`
	// Path is how packets get there; empty: they don't. InternalIP is the address of the Node that
	// counts, By the route of this host to it, and Before why an InternalIP before it does not count.
	Path       topology.Path    `json:"path,omitempty"`
	InternalIP netip.Addr       `json:"internalIP,omitzero"`
	By         string           `json:"by,omitempty"`
	Before     string           `json:"before,omitempty"`
	State      PeerState        `json:"state"`
	Reason     []problem.Reason `json:"reasons,omitempty"`
	// Message explains the state; empty if it is ok.
	Message  string    `json:"message,omitempty"`
	Since    time.Time `json:"since,omitzero"`    // when this agent last saw the state change
	Repaired time.Time `json:"repaired,omitzero"` // when the agent last restored the route
}

// PeerState is the state of the route to a peer.
type PeerState string

// The states of a peer.
const (
	OK       PeerState = "ok"
	Conflict PeerState = "conflict"
	OffLink  PeerState = "off link"
	Refused  PeerState = "refused"
	Failed   PeerState = "failed"
	Missing  PeerState = "missing" // the kernel lacks the desired route
)

// Result is the outcome of a pass. Reports are made of it on request, because peers are many and
// requests few.
type Result struct {
	Version, Node string
	Nodes         []*topology.Node
	Desired       topology.State
	Problems      []problem.Problem
	Ready         bool
	// Seen reports that the host was read, and Problems has what was found.
	Seen   bool
	Host   Host
	API    API
	Pass   Pass
	Passes []Pass
	// Known reports that Desired has been computed, by this pass or an earlier one.
	Known bool
	// Undone are the changes that the pass could not make: the kernel refused them, or another
	// program keeps reverting them.
	Undone plan.Changes
	// History provides the times of peers' states; nil: there are none.
	History *History
}

// Latest holds the Result of the last pass. It is safe for concurrent use.
type Latest struct {
	// History has the times of peers' states. Only the loop changes it.
	History History

	result atomic.Pointer[Result]
}

// Publish replaces the Result, which must not be changed afterwards.
func (l *Latest) Publish(r *Result) { l.result.Store(r) }

// Last returns the Result of the last pass; before the first one, a Result with a Problem.
func (l *Latest) Last() *Result {
	if r := l.result.Load(); r != nil {
		return r
	}
	starting := problem.New(problem.APIUnavailable, problem.Subject{}, "starting: no pass has run yet").Blocking(true)
	return &Result{Problems: []problem.Problem{starting}}
}

// Blocking returns the Problems that keep the node from being ready.
func (r *Result) Blocking() []problem.Problem {
	i := slices.IndexFunc(r.Problems, func(p problem.Problem) bool { return !p.BlocksReady })
	if i < 0 {
		return r.Problems
	}
	return r.Problems[:i]
}

// Report returns the full report of a Result.
func (r *Result) Report() Report {
	host := r.Host
	host.Addresses, host.Subnets, host.Uplinks = nonNil(host.Addresses), nonNil(host.Subnets), nonNil(host.Uplinks)
	return Report{
		TypeMeta: TypeMeta("NodeReport"), Version: r.Version, Node: r.Node, Ready: r.Ready, Conditions: r.Conditions(), Host: host, API: r.API,
		Problems: problem.Complete(r.Problems), Peers: r.peers(), State: r.Desired,
		Drift: Drift{Differences: []problem.Problem{}}, Pass: r.Pass, Passes: nonNil(r.Passes),
	}
}

// All returns all that is wrong with the node: its Problems, why the API server or the kernel can't be
// read, and the differences.
func (r *Report) All() []problem.Problem {
	return append(r.withUnread(), problem.Complete(r.Drift.Differences)...)
}

// withUnread returns the Problems, and why the API server or the kernel can't be read.
func (r *Report) withUnread() []problem.Problem {
	list := problem.Complete(r.Problems)
	waits := func(p problem.Problem) bool { return p.Reason == problem.APIUnavailable } // the same error
	if r.API.Error != "" && !slices.ContainsFunc(list, waits) {
		list = append(list, problem.New(problem.APIUnavailable, problem.Subject{}, "can't ask the API server: %s", r.API.Error))
	}
	if r.Drift.Error != "" {
		list = append(list, problem.New(problem.KernelFailed, problem.Subject{}, "can't compare with the kernel: %s", r.Drift.Error))
	}
	return list
}

// nonNil returns an empty list for nil, for JSON.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// problemsByNode returns the Problems of each Node.
func (r *Result) problemsByNode() map[string][]problem.Problem {
	all := map[string][]problem.Problem{}
	for _, p := range r.Problems {
		all[p.Node] = append(all[p.Node], p)
	}
	return all
}

// eachPeer calls f with the peers in the order of their Nodes, without times, and with the route of
// this host because of which the Path is that one, or nil, in place of By.
func (r *Result) eachPeer(f func(p Peer, by *topology.Route)) {
	problemsByNode := r.problemsByNode()
	for _, n := range r.Nodes {
		for _, subnet := range n.PodCIDRs {
			if n.Name != r.Node {
				f(r.peer(n, subnet, problemsByNode[n.Name]))
			}
		}
	}
}

func (r *Result) peers() []Peer {
	peers := make([]Peer, 0, len(r.Nodes))
	texts := map[*topology.Route]string{nil: ""} // this host has few routes, by which thousands of peers are reached
	r.eachPeer(func(p Peer, by *topology.Route) {
		if _, known := texts[by]; !known {
			texts[by] = by.String()
		}
		p.By = texts[by]
		peers = append(peers, p)
	})
	slices.SortFunc(peers, func(a, b Peer) int { return topology.ComparePrefix(a.Subnet, b.Subnet) })
	r.History.setTimes(peers)
	return peers
}

// states returns the states of the touched peers.
func (r *Result) states(t Touched) map[row]PeerState {
	problemsByNode := r.problemsByNode()
	states := make(map[row]PeerState, len(t.Nodes)+len(t.Subnets))
	for _, n := range r.Nodes {
		for _, subnet := range n.PodCIDRs {
			if _, routed := t.Subnets[subnet]; routed || t.Nodes[n.Name] {
				peer, _ := r.peer(n, subnet, problemsByNode[n.Name])
				states[row{n.Name, subnet}] = peer.State
			}
		}
	}
	return states
}

// peer returns how one subnet of a Node is reached, considering the Node's Problems about this
// subnet: the other family may be unaffected.
func (r *Result) peer(n *topology.Node, subnet netip.Prefix, problems []problem.Problem) (peer Peer, by *topology.Route) {
	peer = Peer{Node: n.Name, Subnet: subnet, State: Refused}
	var messages []string
	for _, p := range problems {
		if !p.Subnet.IsValid() || p.Subnet == subnet {
			peer.Reason = append(peer.Reason, p.Reason)
			messages = append(messages, p.Message)
		}
	}
	peer.Message = strings.Join(messages, "; ")
	route := topology.RouteTo(r.Desired.Routes, subnet, topology.PeerMetric(subnet))
	reach := r.Desired.Reach(subnet)
	ours := reach.Node == n.Name || route != nil && slices.Contains(n.Addrs, route.Via)
	if ours && (route != nil || reach.Path == topology.PathUnderlay) && !slices.Contains(peer.Reason, problem.PodCIDRDisputed) {
		peer.Path, peer.InternalIP, peer.Before, peer.State, by = reach.Path, reach.InternalIP, reach.Before, OK, reach.By
	}
	if route != nil && peer.State == OK {
		peer.Via, peer.Dev = route.Via, route.Dev
	}
	for _, t := range reasonStates {
		if slices.Contains(peer.Reason, t.reason) && (t.state != OffLink || peer.State != OK) {
			peer.State = t.state
		}
	}
	return peer, by
}

// reasonStates are the states that a Reason alone determines; the last that applies counts.
var reasonStates = []struct {
	reason problem.Reason
	state  PeerState
}{
	{problem.OffLink, OffLink}, {problem.RouteConflict, Conflict}, {problem.RouteFailed, Failed},
}
