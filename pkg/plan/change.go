// Package plan computes the changes that lead a host from one State to another, in the order of
// application. It is pure.
package plan

import (
	"cmp"
	"iter"
	"reflect"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Op is what a Change does to its Object.
type Op string

// The operations. An Object is added if none with its Key exists, and replaced if one does.
const (
	Add     Op = "add"
	Replace Op = "replace"
	Delete  Op = "delete"
)

// An Object is one thing on this host that plainroute makes.
type Object interface {
	// kind and name are its Key.
	kind() Kind
	name() string
	// String describes it in an operator's syntax.
	String() string
	// command returns the operator's command for an operation.
	command(Op) string
	// same reports whether two States have the same of it.
	same(a, b topology.State) bool
}

// A Change is an operation on an Object. It is comparable.
type Change struct {
	Op     Op
	Object Object
}

// String returns the operator's command for the Change.
func (c Change) String() string { return c.Object.command(c.Op) }

// Kind is that of the Object.
func (c Change) Kind() Kind { return c.Object.kind() }

// Key is that of the Object.
func (c Change) Key() Key { return Key{c.Object.kind(), c.Object.name()} }

// Changes lead from the actual State to the desired one, in the order of application.
type Changes []Change

// Of returns Changes that do one operation to each Object.
func Of(op Op, objects ...Object) Changes {
	c := make(Changes, len(objects))
	for i, o := range objects {
		c[i] = Change{op, o}
	}
	return c
}

// Empty reports whether nothing changes.
func (c Changes) Empty() bool { return len(c) == 0 }

// Filter returns the Changes that keep accepts. It copies only if one in their middle is left out:
// a node that starts has thousands.
func (c Changes) Filter(keep func(Change) bool) Changes {
	kept := 0
	for kept < len(c) && keep(c[kept]) {
		kept++
	}
	rest := slices.Clip(c[:kept])
	for i := kept + 1; i < len(c); i++ {
		if keep(c[i]) {
			rest = append(rest, c[i])
		}
	}
	return rest
}

// Only returns the Changes to Objects of one Kind.
func (c Changes) Only(kind Kind) Changes {
	return c.Filter(func(x Change) bool { return x.Kind() == kind })
}

// Except returns the Changes to Objects of all other Kinds.
func (c Changes) Except(kind Kind) Changes {
	return c.Filter(func(x Change) bool { return x.Kind() != kind })
}

// Has reports whether an Object of a Kind changes.
func (c Changes) Has(kind Kind) bool {
	return slices.ContainsFunc(c, func(x Change) bool { return x.Kind() == kind })
}

// Removes reports whether anything is deleted.
func (c Changes) Removes() bool {
	return slices.ContainsFunc(c, func(x Change) bool { return x.Op == Delete })
}

// WithoutRemovals leaves out deletions, of which a later, fuller view of the Nodes may need the
// Objects.
func (c Changes) WithoutRemovals() Changes {
	return c.Filter(func(x Change) bool { return x.Op != Delete })
}

// Minus returns what is left of the Changes once some of them are done.
func (c Changes) Minus(done Changes) Changes {
	if len(done) <= len(c) && slices.Equal(c[:len(done)], done) { // all that precedes the CNI config
		return slices.Clone(c[len(done):]) // which is kept until the next pass, without the rest
	}
	gone := make(map[Change]bool, len(done))
	for _, x := range done {
		gone[x] = true
	}
	return c.Filter(func(x Change) bool { return !gone[x] })
}

// Without leaves out the Changes of all Keys that drop accepts. A Change of the table stays with
// Changes of routes: a destination is in the sets before its route is added. Without a device
// nothing on it is changed, and without one of our routes none that it replaces in another table is
// deleted.
func (c Changes) Without(drop func(Key) bool) Changes {
	for _, x := range c {
		if dev := x.makes(); dev != "" && drop(x.Key()) {
			c = c.WithoutDevice(dev)
		}
	}
	if isStray := func(x Change) bool { _, is := x.Object.(StrayRoute); return is }; slices.ContainsFunc(c, isStray) &&
		slices.ContainsFunc(c, func(x Change) bool { return (x.putsRoute() || x.carriesRoutes()) && drop(x.Key()) }) {
		c = c.Filter(func(x Change) bool { return !isStray(x) })
	}
	left := c.Filter(func(x Change) bool { return x.Kind() == KindTable || !drop(x.Key()) })
	if drop(tableKey) && !slices.ContainsFunc(left, Change.putsRoute) {
		return left.Except(KindTable)
	}
	return left
}

// carriesRoutes reports whether routes of ours may depend on the Change: it is of a device, or of what
// is on one.
func (c Change) carriesRoutes() bool {
	switch c.Kind() {
	case KindSysctl, KindRoute, KindTable, KindCNI:
		return false
	}
	return true
}

func (c Change) putsRoute() bool { return c.Kind() == KindRoute && c.Op != Delete }

// Distinct returns the first Change of each Key. Each Object of a peer has a Key of its own.
func (c Changes) Distinct() Changes {
	seen := map[Key]bool{}
	return c.Filter(func(x Change) bool {
		if x.Kind().OfPeers() {
			return true
		}
		key := x.Key()
		was := seen[key]
		seen[key] = true
		return !was
	})
}

// Keys returns the Keys of the Changes, each once.
func (c Changes) Keys() []Key {
	distinct := c.Distinct()
	keys := make([]Key, len(distinct))
	for i, x := range distinct {
		keys[i] = x.Key()
	}
	return keys
}

// Repairs returns the Keys of Changes that restore what the desired State before had as well, so
// that another program must have undone it.
func (c Changes) Repairs(before, desired topology.State) []Key {
	return c.Filter(func(x Change) bool { return x.Object.same(before, desired) }).Keys()
}

// Steps yields the Changes that are made together: of one type of Object, and one operation.
func (c Changes) Steps() iter.Seq[Changes] {
	return func(yield func(Changes) bool) {
		for len(c) > 0 {
			n := 1
			for n < len(c) && c[n].Op == c[0].Op && reflect.TypeOf(c[n].Object) == reflect.TypeOf(c[0].Object) {
				n++
			}
			if !yield(c[:n]) {
				return
			}
			c = c[n:]
		}
	}
}

// Each yields the Objects of one type with one of the operations.
func Each[T Object](c Changes, ops ...Op) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, x := range c {
			if o, ok := x.Object.(T); ok && slices.Contains(ops, x.Op) && !yield(o) {
				return
			}
		}
	}
}

// Objects returns what Each yields.
func Objects[T Object](c Changes, ops ...Op) []T {
	n := 0
	for range Each[T](c, ops...) {
		n++
	}
	all := make([]T, 0, n) // thousands of routes when a node starts
	return slices.AppendSeq(all, Each[T](c, ops...))
}

// With adds Changes, each at its place in the order.
func (c Changes) With(more ...Change) Changes {
	c = append(slices.Clone(c), more...)
	c.sort()
	return c
}

// Kind is a kind of Object, in an operator's words.
type Kind string

// The kinds of Objects.
const (
	KindSysctl   Kind = "sysctl"
	KindAddress  Kind = "address"
	KindBridge   Kind = "bridge"
	KindDevice   Kind = "device"
	KindTunnel   Kind = "tunnel"
	KindNeighbor Kind = "neighbor"
	KindFDB      Kind = "FDB entry"
	KindRoute    Kind = "route"
	KindTable    Kind = "nftables table"
	KindCNI      Kind = "CNI config"
)

// OfPeers reports whether there is an Object of the Kind for each peer.
func (k Kind) OfPeers() bool { return k == KindRoute || k == KindNeighbor || k == KindFDB }

// Label is the kind as a single word, for metrics and logs. The bridge is a device like its ports.
func (k Kind) Label() string {
	switch k {
	case KindTable:
		return "table"
	case KindCNI:
		return "cni"
	case KindFDB:
		return "fdb"
	case KindBridge:
		return string(KindDevice)
	}
	return string(k)
}

// Key identifies an Object on this host.
type Key struct {
	Kind Kind `json:"kind"`
	// Name is a path, a prefix or a name, in an operator's syntax.
	Name string `json:"name"`
}

func (k Key) String() string { return string(k.Kind) + " " + k.Name }

// Compare orders Keys.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Name, o.Name))
}

var tableKey = Key{KindTable, topology.Table}
