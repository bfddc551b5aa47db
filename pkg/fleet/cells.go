package fleet

import (
	"fmt"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

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
