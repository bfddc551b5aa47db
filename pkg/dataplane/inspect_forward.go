package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
)

// Packet is one that this host forwards: a segment of TCP or a datagram of UDP, of ports that nobody knows.
type Packet struct {
	In, Out string // the devices; empty: not known
	// From and To are its addresses, or prefixes that they are somewhere in.
	From, To netip.Prefix
	// Answer tells one of a connection that is established, from its far end.
	Answer bool
	UDP    bool
}

func (p Packet) String() string {
	kind := "new"
	if p.Answer {
		kind = "answer"
	}
	if p.UDP {
		kind += ", UDP"
	}
	return fmt.Sprintf("from %s (%s) to %s (%s), %s", addressOf(p.From), p.In, addressOf(p.To), p.Out, kind)
}

// addressOf writes a single address as one.
func addressOf(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// Fate is what a chain does with a packet. Both are true where nobody can tell.
type Fate struct {
	Accepted, Dropped bool
	// By is the rule that drops, or "its policy"; Doubt is the first rule that may or may
	// not match: packets of its kind differ in that, or it says what is not understood.
	By, Doubt string
}

// truth is how a rule fits a packet. Those after yes are not certain.
type truth int

const (
	no truth = iota
	yes
	some    // it fits some packets of the kind, by port say
	unknown // nobody can tell
)

// What a rule does with what it fits is a verdict of nftables.
var (
	pass  = expr.Verdict{Kind: expr.VerdictContinue} // to the next rule
	drop  = expr.Verdict{Kind: expr.VerdictDrop}
	dunno = expr.Verdict{Kind: expr.VerdictQueue} // that another program decides, or nobody can tell
)

type rule struct {
	name  string
	judge func(Packet) (truth, expr.Verdict)
}

// walk is the way of one packet through the chains of a table. A kernel takes no chains
// that come back to themselves.
type walk struct {
	chains map[string][]rule
	packet Packet
	known  map[string]ends
}

// ends are all the ways in which a chain or a rule may leave a packet.
type ends struct {
	accept, drop bool
	on, back     bool // to the next rule, to the chain that jumped here
	by, doubt    string
}

// fate sends a packet into a base chain.
func fate(chains map[string][]rule, base string, policyDrops bool, p Packet) Fate {
	w := &walk{chains, p, map[string]ends{}}
	e := w.chain(base)
	f := Fate{Accepted: e.accept || e.back && !policyDrops, Dropped: e.drop || e.back && policyDrops, By: e.by, Doubt: e.doubt}
	if f.Dropped && f.By == "" {
		f.By = "its policy"
	}
	return f
}

func (w *walk) chain(name string) ends {
	all, known := w.known[name]
	if !known {
		all = w.rules(w.chains[name])
		w.known[name] = all
	}
	return all
}

func (w *walk) rules(rules []rule) (all ends) {
	for _, r := range rules {
		fits, v := r.judge(w.packet)
		if fits == no {
			continue
		}
		e := w.follow(v, r.name)
		if fits == some {
			e.drop = false // a rule against some ports cuts nobody off
		}
		if fits != yes && (e.accept || e.drop || e.back) {
			e.doubt = r.name
		}
		all.add(e)
		if fits == yes && !e.on {
			return all
		}
	}
	all.back = true
	return all
}

func (w *walk) follow(v expr.Verdict, name string) ends {
	switch v.Kind {
	case expr.VerdictContinue:
		return ends{on: true}
	case expr.VerdictAccept:
		return ends{accept: true}
	case expr.VerdictDrop:
		return ends{drop: true, by: name}
	case expr.VerdictReturn:
		return ends{back: true}
	case expr.VerdictJump:
		e := w.chain(v.Chain)
		e.on, e.back = e.back, false
		return e
	case expr.VerdictGoto:
		return w.chain(v.Chain)
	default:
		return ends{accept: true, drop: true, by: name, doubt: name}
	}
}

func (e *ends) add(o ends) {
	e.accept, e.drop, e.back = e.accept || o.accept, e.drop || o.drop, e.back || o.back
	if e.by == "" && o.drop {
		e.by = o.by
	}
	if e.doubt == "" {
		e.doubt = o.doubt
	}
}
