package fleet

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// Cell is how one Node reaches the pods of another. It is a byte, for there are 25 million of them among 5,000 Nodes.
type Cell uint8

// The Cells, the better first: of a peer's subnets the worst counts.
const (
	Silent   Cell = iota // its agent said nothing
	Self                 // the Node itself
	Nothing              // the peer has no pod subnet, or neither is to have an agent
	Routed               // a route of ours, in use
	Conflict             // a foreign route goes before ours
	OffLink              // the peer is behind a gateway
	Refused              // what the peer claims is refused
	Lost                 // the route should be in the kernel and is not
	Failed               // the kernel refused the route
	Unknown              // the agent doesn't know of the peer's subnet
)

// Symbols has a character for each Cell.
const Symbols = "?.-=cgrmf!"

// words say what a Symbol means.
var words = [...]string{
	"its agent said nothing", "the node itself", "nothing to reach", "a route", "conflict: a foreign route goes before ours",
	"off link: behind a gateway", "refused", "missing in the kernel", "failed: the kernel refused it", "the agent does not know the peer's subnet",
}

// states are the Cells of the peers' states.
var states = map[status.PeerState]Cell{
	status.OK: Routed, status.Conflict: Conflict, status.OffLink: OffLink,
	status.Refused: Refused, status.Missing: Lost, status.Failed: Failed,
}

// Bad tells that there should be a route, and that it is known that there is none.
func (c Cell) Bad() bool { return c > Routed }

// String is what the Cell means, in words.
func (c Cell) String() string { return words[c] }

// Cells are a Row's.
type Cells []Cell

// MarshalJSON makes a string of a Symbol each.
func (c Cells) MarshalJSON() ([]byte, error) { return json.Marshal(c.symbols()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Cells) UnmarshalJSON(text []byte) error {
	var symbols string
	if err := json.Unmarshal(text, &symbols); err != nil {
		return err
	}
	*c = make(Cells, len(symbols))
	for i := range symbols {
		n := slices.Index([]byte(Symbols), symbols[i])
		if n < 0 {
			return fmt.Errorf("%q is none of %s", symbols[i], Symbols)
		}
		(*c)[i] = Cell(n)
	}
	return nil
}

func (c Cells) symbols() string {
	text := make([]byte, len(c))
	for i, cell := range c {
		text[i] = Symbols[cell]
	}
	return string(text)
}

// Cell is how the Node with one index reaches the pods of that with the other.
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
	return Silent
}
