// Package fleet collects the reports of all agents of a cluster, from a workstation, and finds the
// problems that only all of them together show.
package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// Cluster is the fleet status: the reports of all Nodes.
type Cluster struct {
	metav1.TypeMeta `json:",inline"`
	Time            time.Time       `json:"time"`
	Nodes           []Row           `json:"nodes"`    // a Row for each Node, by name
	Problems        []problem.Group `json:"problems"` // those that only all reports together show
}

// Row is a Node and its agent's report.
type Row struct {
	Node     string   `json:"node"`
	Subnets  []string `json:"subnets"`            // the Node's pod subnets by the API server
	NotReady string   `json:"notReady,omitempty"` // the message of the Node's condition Ready, unless it is True
	Agent    *Agent   `json:"agent,omitempty"`
	// NoReport is the Reason for a missing Report, Message its explanation.
	NoReport problem.Reason `json:"noReport,omitempty"`
	Message  string         `json:"message,omitempty"`
	// Report is the agent's report without the peers that are ok and, but for the tunnels, without
	// the desired state. Its lists have at most Kept entries; Count has their true lengths.
	Report *status.Report `json:"report,omitempty"`
	Count  Count          `json:"count"`
	// Routes has a character of Symbols for each Node, in the order of Cluster.Nodes: how this Node
	// reaches its pods.
	Routes Cells `json:"routes,omitempty"`
}

// Kept is how many entries of a list a Row keeps. 5,000 agents that each report 5,000 peers would
// take gigabytes.
const Kept = 32

// Agent is the pod of an agent.
type Agent struct {
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	Container string    `json:"container"`
	Image     string    `json:"image"`
	Started   time.Time `json:"started,omitzero"`
	Port      int       `json:"port"` // on its node's loopback
}

// Count has the lengths of a Report's lists, or of parts of them.
type Count struct {
	Peers    int `json:"peers"`
	OK       int `json:"ok"`
	Problems int `json:"problems"`
	Drift    int `json:"drift"`
	Tunnels  int `json:"tunnels,omitempty"` // of the peers: those that are reached by one
}

// Version returns the agent's, or "".
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

// Cell is how one Node reaches the pods of another. It is a byte, because 5,000 Nodes have 25
// million.
type Cell uint8

// The Cells, from better to worse: of a peer's subnets the worst counts.
const (
	NoReport Cell = iota // its agent did not report
	Self                 // the Node itself
	Nothing              // the peer has no pod subnet, or one of the two has no agent by intention
	Routed               // a route of ours, in use
	Conflict             // a foreign route takes precedence
	OffLink              // the peer is behind a gateway
	Refused              // the peer's claim is refused
	Missing              // the kernel lacks the route
	Failed               // the kernel refused the route
	Unknown              // the agent's report lacks the peer's subnet
)

// Symbols has a character for each Cell.
const Symbols = "?.-=cgrmf!"

// words are the meanings of the Symbols.
var words = [...]string{
	"no report from its agent", "the node itself", "nothing to reach", "a route", "conflict: a foreign route takes precedence",
	"off link: behind a gateway", "refused", "missing in the kernel", "failed: the kernel refused it", "the agent's report lacks the peer's subnet",
}

var cellOf = map[status.PeerState]Cell{
	status.OK: Routed, status.Conflict: Conflict, status.OffLink: OffLink,
	status.Refused: Refused, status.Missing: Missing, status.Failed: Failed,
}

// Bad reports whether a route is known to be missing or wrong.
func (c Cell) Bad() bool { return c > Routed }

func (c Cell) String() string { return words[c] }

// Cells are the Cells of a Row. In JSON they are a string of Symbols.
type Cells []Cell

func (c Cells) String() string {
	text := make([]byte, len(c))
	for i, cell := range c {
		text[i] = Symbols[cell]
	}
	return string(text)
}

// MarshalText returns a Symbol for each Cell.
func (c Cells) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads Symbols.
func (c *Cells) UnmarshalText(text []byte) error {
	*c = make(Cells, len(text))
	for i := range text {
		n := strings.IndexByte(Symbols, text[i])
		if n < 0 {
			return fmt.Errorf("%q is not one of %s", text[i], Symbols)
		}
		(*c)[i] = Cell(n)
	}
	return nil
}

// Cell returns how one Node reaches the pods of another, by their indices.
func (c *Cluster) Cell(from, to int) Cell {
	if from == to {
		return Self
	}
	if cells := c.Nodes[from].Routes; cells != nil {
		return cells[to]
	}
	if c.Nodes[from].NoReport == problem.NotManaged {
		return Nothing
	}
	return NoReport
}

// Row returns how the Node with this index reaches each Node.
func (c *Cluster) Row(from int) Cells {
	cells := make(Cells, len(c.Nodes))
	for to := range cells {
		cells[to] = c.Cell(from, to)
	}
	return cells
}
