// Package fleet asks all agents of a cluster how they are, from a workstation, and finds what only the whole view shows.
package fleet

import (
	"time"

	"github.com/plainroute/plainroute/pkg/status"
)

// Cluster is what all agents said.
type Cluster struct {
	Time time.Time `json:"time"`
	// Nodes has a Row for each Node, by name.
	Nodes []Row `json:"nodes"`
	// Faults are what no single agent can see.
	Faults []Fault `json:"faults"`
}

// Row is a Node and what its agent said.
type Row struct {
	Node string `json:"node"`
	// Subnets are the Node's as the API server has them.
	Subnets []string `json:"subnets"`
	// NotReady is what the Node's condition Ready says, unless it is ready.
	NotReady string `json:"notReady,omitempty"`
	Agent    *Agent `json:"agent,omitempty"`
	// Silence is why there is no Report, Detail the same in words.
	Silence Silence `json:"silence,omitempty"`
	Detail  string  `json:"detail,omitempty"`
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

// Silence is why there is no Report.
type Silence string

// The reasons for which a Node has no Report.
const (
	NotManaged Silence = "NotManaged" // no agent is meant to run there
	NoAgent    Silence = "NoAgent"    // there is no pod of an agent
	NotRunning Silence = "NotRunning" // there is, and it doesn't run
	Forbidden  Silence = "Forbidden"  // we lack a right
	NoAnswer   Silence = "NoAnswer"   // it runs, and doesn't answer
	Unreadable Silence = "Unreadable" // what it answered is no Report that this version can read
)

// Version is the agent's, or nothing.
func (r *Row) Version() string {
	if r.Report == nil {
		return ""
	}
	return r.Report.Version
}

// OK tells that there is nothing to say against a Node.
func (r *Row) OK() bool {
	if r.Report == nil {
		return r.Silence == NotManaged
	}
	return r.Report.Ready && r.Count.OK == r.Count.Peers && len(r.complaints()) == 0
}

// OK tells that there is nothing to say against the cluster. A Fault that is but a note doesn't count.
func (c *Cluster) OK() bool {
	for i := range c.Nodes {
		if !c.Nodes[i].OK() {
			return false
		}
	}
	for _, f := range c.Faults {
		if !f.Note {
			return false
		}
	}
	return true
}
