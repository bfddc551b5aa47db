package fleet

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/plainroute/plainroute/pkg/text"
)

// wholeMatrix is the largest number of Nodes whose whole matrix is printed, and of rows and columns
// otherwise: a screen's size.
const wholeMatrix = 40

// matrix writes which Nodes have routes to which.
func (c *Cluster) matrix(w io.Writer, f Format) {
	rows, columns := c.selectNodes(f)
	if len(rows) == 0 {
		fmt.Fprintf(w, "All %d nodes have routes to each other.\n", len(c.Nodes))
		return
	}
	name, width := len("FROM \\ TO"), len(strconv.Itoa(len(c.Nodes)))
	for _, i := range slices.Concat(rows, columns) {
		name = max(name, width+1+len(c.Nodes[i].Node))
	}
	fmt.Fprintf(w, "%-*s", name, "FROM \\ TO")
	for _, to := range columns {
		fmt.Fprintf(w, " %*d", width, to+1)
	}
	fmt.Fprintln(w)
	seen := map[Cell]bool{}
	for _, from := range rows {
		fmt.Fprintf(w, "%-*s", name, fmt.Sprintf("%*d %s", width, from+1, c.Nodes[from].Node))
		for _, to := range columns {
			cell := c.Cell(from, to)
			seen[cell] = true
			fmt.Fprint(w, strings.Repeat(" ", width), text.Paint(f.Color, cell.color(), Symbols[cell:cell+1]))
		}
		fmt.Fprintln(w)
	}
	c.legend(w, rows, columns, seen)
}

// legend writes the symbols' meanings, and the Nodes of columns that have no row.
func (c *Cluster) legend(w io.Writer, rows, columns []int, seen map[Cell]bool) {
	for _, to := range columns {
		if !slices.Contains(rows, to) {
			fmt.Fprintf(w, "%d is %s\n", to+1, c.Nodes[to].Node)
		}
	}
	fmt.Fprintln(w)
	for cell := range Cell(len(Symbols)) {
		if seen[cell] {
			fmt.Fprintf(w, "%c  %s\n", Symbols[cell], cell)
		}
	}
	if len(rows) < len(c.Nodes) || len(columns) < len(c.Nodes) {
		fmt.Fprintf(w, "Shown are %d of %d rows and %d of %d columns: those with the most problems.\n", len(rows), len(c.Nodes), len(columns), len(c.Nodes))
	}
}

// selectNodes returns rows and columns: in a small cluster all, else those with the most problems.
func (c *Cluster) selectNodes(f Format) (rows, columns []int) {
	from, to := make([]int, len(c.Nodes)), make([]int, len(c.Nodes))
	for i := range c.Nodes {
		for j := range c.Nodes {
			switch cell := c.Cell(i, j); {
			case cell.Bad():
				from[i], to[j] = from[i]+1, to[j]+1
			case cell == NoReport: // affects each column alike
				from[i]++
			}
		}
	}
	whole := len(c.Nodes) <= wholeMatrix && !f.Problems
	rows, columns = worst(from, whole), worst(to, whole)
	if len(rows) > 0 && len(columns) == 0 {
		columns = rows
	}
	return rows, columns
}

// worst returns the indices of counts that are not 0, or all: at most wholeMatrix, in order.
func worst(counts []int, whole bool) []int {
	var list []int
	for i, n := range counts {
		if whole || n > 0 {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b int) int { return cmp.Compare(counts[b], counts[a]) })
	list = list[:min(len(list), wholeMatrix)]
	slices.Sort(list)
	return list
}

func (c Cell) color() string {
	switch {
	case c.Bad():
		return text.Red
	case c == NoReport:
		return text.Yellow
	}
	return ""
}
