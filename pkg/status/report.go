// Package status says what a pass found: as JSON for machines, and in words.
package status

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// APIVersion is that of all JSON that commands and agents write; docs/api.md says what is stable.
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
	// Ready tells that this node's pods are served as they should be.
	Ready bool `json:"ready"`
	// Conditions are what that depends on, as /readyz?verbose lists them.
	Conditions []Condition `json:"conditions"`
	// Host is what this node is, as far as the network is concerned.
	Host Host `json:"host"`
	// API is how well the Nodes are known.
	API API `json:"api"`
	// Problems are sorted: those that keep the node from being ready come first.
	Problems []problem.Problem `json:"problems"`
	// Peers has a row for each pod subnet of another Node.
	Peers []Peer `json:"peers"`
	// State is what the host should be like.
	State topology.State `json:"state"`
	// Drift is how the kernel and the CNI folder differ from State just now.
	Drift Drift `json:"drift"`
	// Pass says when the last pass was, and how long it took.
	Pass Pass `json:"pass"`
	// Passes are the last ones, the newest first.
	Passes []Pass `json:"passes"`
}

// Host is what this node is, as far as the network is concerned.
type Host struct {
	// Router tells that it is no Node, and has no pods.
	Router bool `json:"router,omitempty"`
	// Addresses are the Node's InternalIPs, Subnets its pod subnets.
	Addresses []netip.Addr   `json:"addresses"`
	Subnets   []netip.Prefix `json:"subnets"`
	// ClusterCIDRs are the ranges of --cluster-cidr.
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs,omitempty"`
	// Uplinks are the links that bear the InternalIPs.
	Uplinks []Uplink `json:"uplinks"`
	// MTU is that of the pods in bytes; 0: there is no CNI config yet.
	MTU int `json:"mtu"`
	// Encapsulation is never, for there is none.
	Encapsulation string `json:"encapsulation"`
	// Bridge is the pods' device, and Ports how many of them are attached to it.
	Bridge string `json:"bridge"`
	Ports  int    `json:"ports"`
	// Config is the path of our CNI config.
	Config string `json:"config"`
	// ConfigsBefore are names of other CNI configs that the runtime takes before ours, and that are wanted.
	ConfigsBefore []string `json:"configsBefore,omitempty"`
}

// Uplink is a link by which peers reach this node.
type Uplink struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"`
}

// API is how well the Nodes are known.
type API struct {
	// Synced tells that there was a full list of Nodes.
	Synced bool `json:"synced"`
	// Heard is when the API server last sent anything; zero: never.
	Heard time.Time `json:"heard,omitzero"`
	// Error is why it can't be asked just now.
	Error string `json:"error,omitempty"`
}

// Drift is how the kernel and the CNI folder differ from what is desired.
type Drift struct {
	// Time is when they were looked at; zero: never.
	Time time.Time `json:"time,omitzero"`
	// Differences have the Reason Missing, Altered or Unwanted, and the object as operators write it (ip-route(8),
	// ip-address(8), a path) in their Message. That of a peer's route has its subnet as Subject.
	Differences []problem.Problem `json:"differences"`
	// Error is why they can't be looked at.
	Error string `json:"error,omitempty"`
}

// Pass is one run of the loop.
type Pass struct {
	Number   int64         `json:"number"`
	Time     time.Time     `json:"time"`
	Duration time.Duration `json:"durationNanoseconds"`
	Changes  int           `json:"changes"`
}

// Peer is a pod subnet of another Node and how it is reached.
type Peer struct {
	Node   string       `json:"node"`
	Subnet netip.Prefix `json:"subnet"`
	// Via and Dev are empty where there is no route of ours.
	Via    netip.Addr       `json:"via"`
	Dev    string           `json:"dev,omitempty"`
	State  PeerState        `json:"state"`
	Reason []problem.Reason `json:"reasons,omitempty"`
	// Message says why it is in that state; empty where it is ok.
	Message string `json:"message,omitempty"`
	// Since is when its state last changed, as far as this agent knows.
	Since time.Time `json:"since,omitzero"`
	// Repaired is when its route was last put back after somebody had taken it away.
	Repaired time.Time `json:"repaired,omitzero"`
}

// PeerState is how a peer is doing, in a word.
type PeerState string

// The states of a peer.
const (
	OK       PeerState = "ok"
	Conflict PeerState = "conflict"
	OffLink  PeerState = "off link"
	Refused  PeerState = "refused"
	Failed   PeerState = "failed"
	// Lost is a peer whose route should be in the kernel and is not.
	Lost PeerState = "missing"
)

// Result is what a pass hands over. Reports are made of it only when somebody
// asks, for peers are many and questions few.
type Result struct {
	Version, Node string
	Nodes         []*topology.Node
	Desired       topology.State
	Problems      []problem.Problem
	Ready         bool
	// Seen tells that the host was looked at, and Problems hold what was found.
	Seen   bool
	Host   Host
	API    API
	Pass   Pass
	Passes []Pass
	// Known tells that Desired has been computed, by this pass or one before.
	Known bool
	// Undone is what the pass left as it should not be: the kernel refused it, or somebody
	// keeps undoing it.
	Undone plan.Changes
	// History dates what the peers are like; nil: nobody does.
	History *History
}

// Board is where the last Result hangs for all to read.
type Board struct{ last atomic.Pointer[Result] }

// Publish replaces the Result; it must not be changed afterwards.
func (b *Board) Publish(r *Result) { b.last.Store(r) }

// Last returns the Result of the last pass, or one that says that there was none.
func (b *Board) Last() *Result {
	if r := b.last.Load(); r != nil {
		return r
	}
	return &Result{Problems: []problem.Problem{{Reason: problem.APIUnavailable, Message: "starting: no pass has run yet", BlocksReady: true}}}
}

// Blocking returns the Problems that keep the node from being ready.
func (r *Result) Blocking() []problem.Problem {
	i := slices.IndexFunc(r.Problems, func(p problem.Problem) bool { return !p.BlocksReady })
	if i < 0 {
		return r.Problems
	}
	return r.Problems[:i]
}

// Report makes the full report of a Result.
func (r *Result) Report() Report {
	return Report{
		TypeMeta: TypeMeta("NodeReport"), Version: r.Version, Node: r.Node, Ready: r.Ready, Conditions: r.Conditions(), Host: r.Host.lists(), API: r.API,
		Problems: problem.Complete(r.Problems), Peers: nonNil(r.peers()), State: r.Desired,
		Drift: Drift{Differences: []problem.Problem{}}, Pass: r.Pass, Passes: nonNil(r.Passes),
	}
}

// All returns all that is wrong with the node: its Problems, why the API server or the kernel can't be read, and the
// differences.
func (r *Report) All() []problem.Problem {
	list := problem.Complete(r.Problems)
	if r.API.Error != "" {
		list = append(list, problem.New(problem.APIUnavailable, problem.Subject{}, "can't ask the API server: %s", r.API.Error))
	}
	if r.Drift.Error != "" {
		list = append(list, problem.New(problem.KernelFailed, problem.Subject{}, "can't compare with the kernel: %s", r.Drift.Error))
	}
	return append(list, problem.Complete(r.Drift.Differences)...)
}

// lists makes empty lists of none.
func (h Host) lists() Host {
	h.Addresses, h.Subnets, h.Uplinks = nonNil(h.Addresses), nonNil(h.Subnets), nonNil(h.Uplinks)
	return h
}

// nonNil makes an empty list of none, for JSON.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// plights are the Problems of each Node.
func (r *Result) plights() map[string][]problem.Problem {
	all := map[string][]problem.Problem{}
	for _, p := range r.Problems {
		all[p.Node] = append(all[p.Node], p)
	}
	return all
}

func (r *Result) peers() []Peer {
	plights := r.plights()
	var peers []Peer
	for _, n := range r.Nodes {
		if n.Name == r.Node {
			continue
		}
		for _, subnet := range n.PodCIDRs {
			peers = append(peers, r.peer(n, subnet, plights[n.Name]))
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return topology.ComparePrefix(a.Subnet, b.Subnet) })
	r.History.date(peers)
	return peers
}

// states returns the states of what was touched.
func (r *Result) states(t Touched) map[row]PeerState {
	plights := r.plights()
	states := make(map[row]PeerState, len(t.Nodes)+len(t.Subnets))
	for _, n := range r.Nodes {
		for _, subnet := range n.PodCIDRs {
			if _, routed := t.Subnets[subnet]; routed || t.Nodes[n.Name] {
				states[row{n.Name, subnet}] = r.peer(n, subnet, plights[n.Name]).State
			}
		}
	}
	return states
}

// peer tells how one subnet of a Node is reached, by those of the Node's Problems that
// are about it: what is wrong in one family may be well in the other.
func (r *Result) peer(n *topology.Node, subnet netip.Prefix, problems []problem.Problem) Peer {
	peer := Peer{Node: n.Name, Subnet: subnet, State: Refused}
	for _, p := range problems {
		if p.Subnet.IsValid() && p.Subnet != subnet {
			continue
		}
		peer.Reason = append(peer.Reason, p.Reason)
		if peer.Message != "" {
			peer.Message += "; "
		}
		peer.Message += p.Message
	}
	i, ok := slices.BinarySearchFunc(r.Desired.Routes, topology.Route{Dst: subnet, Metric: topology.MetricPeer}, topology.Route.Compare)
	if ok && slices.Contains(n.Addrs, r.Desired.Routes[i].Via) && !slices.Contains(peer.Reason, problem.PodCIDRDisputed) {
		peer.Via, peer.Dev, peer.State = r.Desired.Routes[i].Via, r.Desired.Routes[i].Dev, OK
	}
	for _, t := range troubles {
		if slices.Contains(peer.Reason, t.reason) && (t.state != OffLink || peer.State != OK) {
			peer.State = t.state
		}
	}
	return peer
}

// troubles are the states that a reason alone gives rise to; the last that applies counts.
var troubles = []struct {
	reason problem.Reason
	state  PeerState
}{
	{problem.OffLink, OffLink},
	{problem.RouteConflict, Conflict},
	{problem.RouteFailed, Failed},
}
