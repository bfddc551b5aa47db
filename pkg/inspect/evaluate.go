package inspect

import (
	"bytes"
	"cmp"

	"github.com/google/nftables/expr"
)

// Outcome is what a chain does with a packet. It is uncertain if Accepted and Dropped are both set.
type Outcome struct {
	Accepted, Dropped bool
	DroppedBy         string // the rule that drops, or "its policy"
	// UncertainRule is the first rule that may or may not match: packets of this kind differ in
	// what it matches, or it has an expression that is not supported here.
	UncertainRule string
}

// truth is whether a rule matches a packet. The values after yes are uncertain.
type truth int

const (
	no truth = iota
	yes
	some    // it matches some packets of this kind, by port for example
	unknown // it has an expression that is not supported
)

// The verdicts of rules that neither jump nor return.
var (
	pass      = expr.Verdict{Kind: expr.VerdictContinue} // to the next rule
	drop      = expr.Verdict{Kind: expr.VerdictDrop}
	undecided = expr.Verdict{Kind: expr.VerdictQueue} // another program decides, or the verdict is not known
)

type rule struct {
	name  string
	match func(Packet) (truth, expr.Verdict)
}

// An evaluation runs one packet through a table. It ends, because the kernel refuses loops of chains.
type evaluation struct {
	chains map[string][]rule
	packet Packet
	done   map[string]exits
}

// exits are all the ways in which a packet may leave a chain or a rule.
type exits struct {
	Outcome
	next    bool // to the next rule
	returns bool // to the chain that jumped to this one
}

// evaluate runs a packet through a base chain.
func evaluate(chains map[string][]rule, base string, policyDrops bool, p Packet) Outcome {
	e := (&evaluation{chains, p, map[string]exits{}}).chain(base)
	if e.returns {
		e.add(Outcome{Accepted: !policyDrops, Dropped: policyDrops, DroppedBy: "its policy"})
	}
	return e.Outcome
}

func (v *evaluation) chain(name string) exits {
	all, done := v.done[name]
	if !done {
		all = v.rules(v.chains[name])
		v.done[name] = all
	}
	return all
}

func (v *evaluation) rules(rules []rule) (all exits) {
	for _, r := range rules {
		matches, verdict := r.match(v.packet)
		if matches == no {
			continue
		}
		e := v.follow(verdict, r.name)
		if matches == some {
			e.Dropped = false // a rule that drops some ports does not cut a pod off
		}
		if matches != yes && (e.Accepted || e.Dropped || e.returns) {
			e.UncertainRule = r.name
		}
		all.add(e.Outcome)
		all.returns = all.returns || e.returns
		if matches == yes && !e.next {
			return all
		}
	}
	all.returns = true
	return all
}

func (v *evaluation) follow(verdict expr.Verdict, name string) exits {
	switch verdict.Kind {
	case expr.VerdictContinue:
		return exits{next: true}
	case expr.VerdictAccept:
		return exits{Outcome: Outcome{Accepted: true}}
	case expr.VerdictDrop:
		return exits{Outcome: Outcome{Dropped: true, DroppedBy: name}}
	case expr.VerdictReturn:
		return exits{returns: true}
	case expr.VerdictJump:
		e := v.chain(verdict.Chain)
		e.next, e.returns = e.returns, false
		return e
	case expr.VerdictGoto:
		return v.chain(verdict.Chain)
	default:
		return exits{Outcome: Outcome{true, true, name, name}}
	}
}

// add adds a rule's outcome to that of the rules before it.
func (o *Outcome) add(later Outcome) {
	o.Accepted, o.Dropped = o.Accepted || later.Accepted, o.Dropped || later.Dropped
	if later.Dropped {
		o.DroppedBy = cmp.Or(o.DroppedBy, later.DroppedBy)
	}
	o.UncertainRule = cmp.Or(o.UncertainRule, later.UncertainRule)
}

// bits are a field's value, in which only some bits are known.
type bits struct {
	value, known []byte
	varies       bool // unknown bits differ between packets of one kind
}

func certain(value []byte) bits {
	return bits{value: value, known: bytes.Repeat([]byte{0xff}, len(value))}
}

func uncertain(n uint32) bits { return bits{value: make([]byte, n), known: make([]byte, n)} }

// doubt is the result of a comparison that depends on unknown bits.
func (b bits) doubt() truth {
	return choose(b.varies, some, unknown)
}

// equals compares as many bytes as are given: "eth*" is a comparison of three.
func (b bits) equals(with []byte) truth {
	if len(with) > len(b.value) {
		return unknown
	}
	result := yes
	for i, w := range with {
		if (b.value[i]^w)&b.known[i] != 0 {
			return no
		}
		if b.known[i] != 0xff {
			result = b.doubt()
		}
	}
	return result
}

// within compares with a range. It returns yes or no if all possible values are in it, or none.
func (b bits) within(from, to []byte) truth {
	if len(from) != len(b.value) {
		return unknown
	}
	least, most := make([]byte, len(from)), make([]byte, len(from))
	for i, k := range b.known {
		least[i], most[i] = b.value[i]&k, b.value[i]|^k
	}
	switch {
	case bytes.Compare(most, from) < 0 || bytes.Compare(least, to) > 0:
		return no
	case bytes.Compare(least, from) >= 0 && bytes.Compare(most, to) <= 0:
		return yes
	}
	return b.doubt()
}

func (b bits) atLeast(from []byte) truth {
	return b.within(from, bytes.Repeat([]byte{0xff}, len(from)))
}

// masked applies a mask and then inverts the bits of flip. Bits that the mask clears become known.
func (b bits) masked(mask, flip []byte) bits {
	out := bits{make([]byte, len(b.value)), make([]byte, len(b.value)), b.varies}
	for i := range b.value {
		out.value[i], out.known[i] = b.value[i]&mask[i]^flip[i], b.known[i]|^mask[i]
	}
	return out
}

func (t truth) not(not bool) truth {
	if not && t <= yes {
		return yes - t
	}
	return t
}

func (t truth) and(o truth) truth {
	if t == no || o == no {
		return no
	}
	return max(t, o)
}
