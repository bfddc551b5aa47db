// Package plan computes what has to change for a host to go from one State to
// another, in the order in which the changes are made. It is pure.
package plan

import (
	"iter"
	"reflect"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Op is what a Change does to its Object.
type Op string

// The operations. An Object is added where there is none of its Key, and replaced where there is
// another.
const (
	Add     Op = "add"
	Replace Op = "replace"
	Delete  Op = "delete"
)

// An Object is one thing on this host that plainroute makes.
type Object interface {
	// Kind and Name make its Key.
	Kind() Kind
	Name() string
	// String describes it as far as it matters, in an operator's syntax.
	String() string
	// command is what an operator would enter to do the same.
	command(Op) string
	// same reports whether two States ask for the same of it.
	same(a, b topology.State) bool
}

// A Change is one thing to do. It is comparable.
type Change struct {
	Op     Op
	Object Object
}

// String returns the command by which an operator would do the same.
func (c Change) String() string { return c.Object.command(c.Op) }

// Kind is that of the Object.
func (c Change) Kind() Kind { return c.Object.Kind() }

// Key is that of the Object.
func (c Change) Key() Key { return Key{c.Object.Kind(), c.Object.Name()} }

// Changes lead from the actual State to the desired one, in the order in which they are made.
type Changes []Change

// Of returns Changes that do one thing to each of some Objects.
func Of(op Op, objects ...Object) Changes {
	c := make(Changes, len(objects))
	for i, o := range objects {
		c[i] = Change{op, o}
	}
	return c
}

// Empty reports whether nothing changes.
func (c Changes) Empty() bool { return len(c) == 0 }

// Filter returns the Changes that keep accepts.
func (c Changes) Filter(keep func(Change) bool) Changes {
	return slices.DeleteFunc(slices.Clone(c), func(x Change) bool { return !keep(x) })
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

// WithoutRemovals leaves out what a later, fuller view might want back.
func (c Changes) WithoutRemovals() Changes {
	return c.Filter(func(x Change) bool { return x.Op != Delete })
}

// Minus returns what is left of the Changes once some of them are done.
func (c Changes) Minus(done Changes) Changes {
	switch len(done) {
	case 0:
		return c
	case len(c):
		return nil
	}
	gone := make(map[Change]bool, len(done))
	for _, x := range done {
		gone[x] = true
	}
	return c.Filter(func(x Change) bool { return !gone[x] })
}

// Without leaves out the Changes of all Keys that drop accepts. Where routes go in, the table goes
// with them: a destination is in the sets before its route is there. Without the bridge nothing of
// it is changed.
func (c Changes) Without(drop func(Key) bool) Changes {
	if i := slices.IndexFunc(c, Change.makesBridge); i >= 0 && drop(c[i].Key()) {
		c = c.WithoutBridge()
	}
	left := c.Filter(func(x Change) bool { return x.Kind() == KindTable || !drop(x.Key()) })
	if drop(tableKey) && !slices.ContainsFunc(left, Change.putsRoute) {
		return left.Except(KindTable)
	}
	return left
}

func (c Change) putsRoute() bool { return c.Kind() == KindRoute && c.Op != Delete }

// Distinct returns the first Change of each Key. Of routes each has its own.
func (c Changes) Distinct() Changes {
	seen := map[Key]bool{}
	return c.Filter(func(x Change) bool {
		if x.Kind() == KindRoute {
			return true
		}
		key := x.Key()
		was := seen[key]
		seen[key] = true
		return !was
	})
}

// Keys names everything that the Changes make, replace or delete, each once.
func (c Changes) Keys() []Key {
	distinct := c.Distinct()
	keys := make([]Key, len(distinct))
	for i, x := range distinct {
		keys[i] = x.Key()
	}
	return keys
}

// Repairs returns the Keys of Changes that only put back what desired asked for
// before as well: had nobody undone it, there would be nothing to change.
func (c Changes) Repairs(before, desired topology.State) []Key {
	return c.Filter(func(x Change) bool { return x.Object.same(before, desired) }).Keys()
}

// Steps yields the Changes that are made in one go: of one type of Object, and one operation.
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

// Objects returns those of one type to which the operations are done.
func Objects[T Object](c Changes, ops ...Op) []T {
	var all []T
	for _, x := range c {
		if o, ok := x.Object.(T); ok && slices.Contains(ops, x.Op) {
			all = append(all, o)
		}
	}
	return all
}

// With adds Changes, each in its place.
func (c Changes) With(more ...Change) Changes {
	c = append(slices.Clone(c), more...)
	c.sort()
	return c
}
