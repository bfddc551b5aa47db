package inspect

import "github.com/google/nftables/expr"

// Outcome is what a chain does with a packet. Accepted and Dropped are both set if that is uncertain.
type Outcome struct {
	Accepted, Dropped bool
	// DroppedBy is the rule that drops, or "its policy".
	DroppedBy string
	// UncertainRule is the first rule that may or may not match: packets of this kind differ in what it
	// matches, or it has an expression that is not supported here.
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

// An evaluation runs one packet through the chains of a table. It ends, because the kernel refuses loops of chains.
type evaluation struct {
	chains map[string][]rule
	packet Packet
	done   map[string]exits
}

// exits are all the ways in which a packet may leave a chain or a rule.
type exits struct {
	accept, drop     bool
	next             bool // to the next rule
	returns          bool // to the chain that jumped to this one
	droppedBy, doubt string
}

// evaluate runs a packet through a base chain.
func evaluate(chains map[string][]rule, base string, policyDrops bool, p Packet) Outcome {
	e := (&evaluation{chains, p, map[string]exits{}}).chain(base)
	o := Outcome{e.accept || e.returns && !policyDrops, e.drop || e.returns && policyDrops, e.droppedBy, e.doubt}
	if o.Dropped && o.DroppedBy == "" {
		o.DroppedBy = "its policy"
	}
	return o
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
			e.drop = false // a rule that drops some ports does not cut a pod off
		}
		if matches != yes && (e.accept || e.drop || e.returns) {
			e.doubt = r.name
		}
		all.add(e)
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
		return exits{accept: true}
	case expr.VerdictDrop:
		return exits{drop: true, droppedBy: name}
	case expr.VerdictReturn:
		return exits{returns: true}
	case expr.VerdictJump:
		e := v.chain(verdict.Chain)
		e.next, e.returns = e.returns, false
		return e
	case expr.VerdictGoto:
		return v.chain(verdict.Chain)
	default:
		return exits{accept: true, drop: true, droppedBy: name, doubt: name}
	}
}

// add adds the exits of a rule to those of the rules before it.
func (e *exits) add(o exits) {
	e.accept, e.drop, e.returns = e.accept || o.accept, e.drop || o.drop, e.returns || o.returns
	if e.droppedBy == "" && o.drop {
		e.droppedBy = o.droppedBy
	}
	if e.doubt == "" {
		e.doubt = o.doubt
	}
}
