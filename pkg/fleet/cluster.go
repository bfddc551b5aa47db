// Package fleet asks all agents of a cluster how they are, from a workstation, and finds what only the whole view shows.
package fleet

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// Cluster is the status of all Nodes.
type Cluster struct {
	metav1.TypeMeta `json:",inline"`
	Time            time.Time `json:"time"`
	// Nodes has a Row for each Node, by name.
	Nodes []Row `json:"nodes"`
	// Problems are those that only all reports together show.
	Problems []problem.Group `json:"problems"`
}

// Row is a Node and its agent's report.
type Row struct {
	Node string `json:"node"`
	// Subnets are the Node's as the API server has them.
	Subnets []string `json:"subnets"`
	// NotReady is what the Node's condition Ready says, unless it is ready.
	NotReady string `json:"notReady,omitempty"`
	Agent    *Agent `json:"agent,omitempty"`
	// NoReport is why there is no Report, Message the same in words.
	NoReport problem.Reason `json:"noReport,omitempty"`
	Message  string         `json:"message,omitempty"`
	// Report is the agent's, without what it wants the host to be like and without the peers that are fine. Of all lists
	// that remain it has the first Kept; Count has their true lengths.
	Report *status.Report `json:"report,omitempty"`
	Count  Count          `json:"count"`
	// Routes has a character of Symbols for each Node, in the order of Cluster.Nodes: how this one reaches that one's pods.
	Routes Cells `json:"routes,omitempty"`
}

// Kept is how many entries of a list a Row keeps. Where 5,000 agents each complain of 5,000 peers, all of them would be
// gigabytes, and nobody reads them.
const Kept = 32

// Agent is the pod of an agent.
type Agent struct {
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	Container string    `json:"container"`
	Image     string    `json:"image"`
	Started   time.Time `json:"started,omitzero"`
	// Port is where it listens, on its node's loopback.
	Port int `json:"port"`
}

// Count is how much there was in a Report.
type Count struct {
	Peers    int `json:"peers"`
	OK       int `json:"ok"`
	Problems int `json:"problems"`
	Drift    int `json:"drift"`
}

// Version is the agent's, or nothing.
func (r *Row) Version() string {
	if r.Report == nil {
		return ""
	}
	return r.Report.Version
}

// OK reports whether a Node has no Problem.
func (r *Row) OK() bool {
	if r.Report == nil {
		return r.NoReport == problem.NotManaged
	}
	return r.Report.Ready && r.Count.OK == r.Count.Peers && len(r.problems()) == 0
}

// OK reports whether the cluster has no Problem but those of severity Info.
func (c *Cluster) OK() bool {
	for i := range c.Nodes {
		if !c.Nodes[i].OK() {
			return false
		}
	}
	return !slices.ContainsFunc(c.Problems, func(g problem.Group) bool { return g.Severity != problem.Info })
}
