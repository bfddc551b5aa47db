package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Table is our whole nftables table, which is replaced if its rules differ. In a deletion it is the
// existing one.
type Table struct{ *topology.Masquerade }

func (t Table) kind() Kind                    { return KindTable }
func (t Table) name() string                  { return topology.Table }
func (t Table) same(a, b topology.State) bool { return sameTables(a.Masquerade, b.Masquerade) }

// String returns the table in the syntax of nft(8).
func (t Table) String() string { return "inet " + topology.Table }

func (t Table) command(op Op) string {
	if op == Delete {
		return "nft delete table " + t.String()
	}
	return fmt.Sprintf("nft -f - <<'EOF'\n%sEOF", t.Ruleset())
}

// Sets are changes of the elements of our table's sets, as one transaction. First elements are
// added until the sets have those of both States, later elements are deleted that the desired State
// lacks.
type Sets struct{ *SetChange }

// SetChange is a change of the elements of our sets, each list sorted. Deletions come first, because
// intervals must not overlap at any moment.
type SetChange struct {
	DeleteCluster, AddCluster []netip.Prefix
	DeleteNodes, AddNodes     []netip.Addr

	DeleteEndpoints, AddEndpoints []netip.Addr
}

func (s Sets) kind() Kind                    { return KindTable } // the sets are part of the table
func (s Sets) name() string                  { return topology.Table }
func (s Sets) same(a, b topology.State) bool { return sameTables(a.Masquerade, b.Masquerade) }

// String returns the table in the syntax of nft(8).
func (s Sets) String() string { return "inet " + topology.Table }

func (s Sets) command(Op) string {
	var commands []string
	for _, verb := range []string{"delete", "add"} {
		ranges, nodes, endpoints := s.DeleteCluster, s.DeleteNodes, s.DeleteEndpoints
		if verb == "add" {
			ranges, nodes, endpoints = s.AddCluster, s.AddNodes, s.AddEndpoints
		}
		for _, is4 := range []bool{true, false} {
			commands = append(commands, elements(verb, "cluster", is4, ranges, netip.Prefix.Addr))
			commands = append(commands, elements(verb, "nodes", is4, nodes, netip.Addr.Unmap))
			commands = append(commands, elements(verb, "endpoints", is4, endpoints, netip.Addr.Unmap))
		}
	}
	return "nft " + strings.Join(slices.DeleteFunc(commands, func(s string) bool { return s == "" }), "; ")
}

// elements returns nft's command to add or delete those elements of a set that are of one family, or "".
func elements[T fmt.Stringer](verb, set string, is4 bool, all []T, addr func(T) netip.Addr) string {
	var names []string
	for _, e := range all {
		if addr(e).Is4() == is4 {
			names = append(names, e.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	family := map[bool]int{true: 4, false: 6}[is4]
	return fmt.Sprintf("%s element inet %s %s%d { %s }", verb, topology.Table, set, family, strings.Join(names, ", "))
}

func (s Sets) keep(state *topology.State) {
	state.Masquerade = &topology.Masquerade{Cluster: s.DeleteCluster, Nodes: s.DeleteNodes, Endpoints: s.DeleteEndpoints}
}

// Empty reports whether no element changes.
func (s SetChange) Empty() bool {
	return len(s.DeleteCluster)+len(s.AddCluster)+len(s.DeleteNodes)+len(s.AddNodes)+len(s.DeleteEndpoints)+len(s.AddEndpoints) == 0
}

func sameTables(a, b *topology.Masquerade) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.SameRules(b) && slices.Equal(a.Cluster, b.Cluster) && slices.Equal(a.Nodes, b.Nodes) && slices.Equal(a.Endpoints, b.Endpoints)
}

// diffTable uses the union of both tables' sets between its two steps: the sets are wide before
// routes change, and narrow after.
func diffTable(desiredState, actualState topology.State) Changes {
	desired, actual := desiredState.Masquerade, actualState.Masquerade
	switch {
	case desired == nil && actual == nil:
		return nil
	case desired == nil:
		return Changes{{Delete, Table{actual}}}
	case actual == nil:
		return Changes{{Add, Table{desired}}}
	}
	wide := widened(desired, actual)
	var c Changes
	if !desired.SameRules(actual) {
		c = append(c, Change{Replace, Table{wide}})
	} else if s := diffSets(wide, actual); !s.Empty() {
		c = append(c, Change{Add, Sets{&s}})
	}
	if s := diffSets(desired, wide); !s.Empty() {
		c = append(c, Change{Delete, Sets{&s}})
	}
	return c
}

// widened returns the desired table with the elements of both.
func widened(desired, actual *topology.Masquerade) *topology.Masquerade {
	wide := *desired
	if more := leaving(desired.KnowsCluster, desired.Cluster, actual.Cluster, topology.ComparePrefix, netip.Prefix.Addr); len(more) > 0 {
		wide.Cluster = topology.Outermost(union(desired.Cluster, more, topology.ComparePrefix))
	}
	if more := leaving(desired.Serves, desired.Nodes, actual.Nodes, netip.Addr.Compare, netip.Addr.Unmap); len(more) > 0 {
		wide.Nodes = union(desired.Nodes, more, netip.Addr.Compare)
	}
	if more := leaving(desired.Filters, desired.Endpoints, actual.Endpoints, netip.Addr.Compare, netip.Addr.Unmap); len(more) > 0 {
		wide.Endpoints = union(desired.Endpoints, more, netip.Addr.Compare)
	}
	return &wide
}

// leaving returns the elements that only the actual set has, of the families of which the desired
// table has the set.
func leaving[T comparable](has func(is4 bool) bool, desired, actual []T, compare func(T, T) int, addr func(T) netip.Addr) []T {
	_, more := DiffSorted(desired, actual, compare)
	return slices.DeleteFunc(more, func(x T) bool { return !has(addr(x).Is4()) })
}

func diffSets(desired, actual *topology.Masquerade) SetChange {
	var s SetChange
	s.AddCluster, s.DeleteCluster = DiffSorted(desired.Cluster, actual.Cluster, topology.ComparePrefix)
	s.AddNodes, s.DeleteNodes = DiffSorted(desired.Nodes, actual.Nodes, netip.Addr.Compare)
	s.AddEndpoints, s.DeleteEndpoints = DiffSorted(desired.Endpoints, actual.Endpoints, netip.Addr.Compare)
	return s
}
