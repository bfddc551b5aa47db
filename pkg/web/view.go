package web

import (
	"net/netip"
	"time"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// view is the data of the page of a cluster.
type view struct {
	Number int    `json:"number"` // of the calls of Collect that have ended
	Done   int    `json:"done"`   // how many of All agents the present call has queried
	All    int    `json:"all"`
	Every  int64  `json:"every"`           // the interval in milliseconds
	Error  string `json:"error,omitempty"` // why the last call of Collect failed; Seen is then that of an earlier one
	Seen   *seen  `json:"seen,omitempty"`
}

// seen is a fleet.Cluster in the form that the page uses.
type seen struct {
	Time     time.Time       `json:"time"`
	Well     bool            `json:"well"`
	Nodes    []node          `json:"nodes"`
	Problems []problem.Group `json:"problems"` // of the Nodes
	Between  []problem.Group `json:"between"`  // which only all reports together show
	Cells    []cell          `json:"cells"`
}

// node is a fleet.Row. Routes has a symbol for each node; Bad has the peers that are not ok.
type node struct {
	Name     string         `json:"name"`
	Well     bool           `json:"well"`
	Ready    bool           `json:"ready"`
	NoReport problem.Reason `json:"noReport,omitempty"`
	Message  string         `json:"message,omitempty"`
	Subnets  []string       `json:"subnets"`
	Address  []netip.Addr   `json:"addresses"`
	Version  string         `json:"version,omitempty"`
	Started  time.Time      `json:"started,omitzero"`
	LastPass time.Time      `json:"lastPass,omitzero"`
	Count    fleet.Count    `json:"count"`
	Routes   string         `json:"routes"`
	Bad      []bad          `json:"bad,omitempty"`
}

// bad is a peer without a good route.
type bad struct {
	Node    string           `json:"node"`
	State   status.PeerState `json:"state"`
	Message string           `json:"message"`
}

// cell explains a symbol.
type cell struct {
	Symbol string `json:"symbol"`
	Words  string `json:"words"`
	Bad    bool   `json:"bad"`
}

func seenOf(c *fleet.Cluster) *seen {
	s := &seen{Time: c.Time, Well: c.OK(), Nodes: []node{}, Problems: c.Groups(), Between: c.Problems}
	for i := range c.Nodes {
		s.Nodes = append(s.Nodes, nodeOf(c, i))
	}
	for i, symbol := range fleet.Symbols {
		of := fleet.Cell(i)
		s.Cells = append(s.Cells, cell{string(symbol), of.String(), of.Bad()})
	}
	return s
}

func nodeOf(c *fleet.Cluster, i int) node {
	row := &c.Nodes[i]
	n := node{
		Name: row.Node, Well: row.OK(), NoReport: row.NoReport, Message: row.Message, Subnets: row.Subnets,
		Version: row.Version(), Count: row.Count, Routes: c.Row(i).String(),
	}
	if row.Agent != nil {
		n.Started = row.Agent.Started
	}
	if row.Report != nil {
		n.Ready, n.Address, n.LastPass = row.Report.Ready, row.Report.Host.Addresses, row.Report.Pass.Time
		for _, p := range row.Report.Peers {
			n.Bad = append(n.Bad, bad{p.Node, p.State, p.Message})
		}
	}
	return n
}
