package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset reads the chains of a table that forwarded packets may come by.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[string]*elementSet
}

type elementSet struct {
	*nftables.Set
	elements []nftables.SetElement
}

// rules reads a chain and those that it leads to.
func (t *ruleset) rules(name string, into map[string][]rule) error {
	if _, done := into[name]; done {
		return nil
	}
	list, err := t.conn.GetRules(t.table, &nftables.Chain{Name: name, Table: t.table})
	if err != nil {
		return fmt.Errorf("listing the rules of %s: %w", name, err)
	}
	into[name] = nil
	var next []string
	for _, r := range list {
		into[name] = append(into[name], rule{fmt.Sprintf("the rule of handle %d in %s", r.Handle, name), func(p Packet) (truth, verdict) {
			m := nftMachine{packet: p, table: t}
			return m.run(r.Exprs)
		}})
		for _, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Verdict:
				next = append(next, e.Chain)
			case *expr.Lookup:
				next = append(next, t.set(e.SetName)...)
			}
		}
	}
	for _, chain := range next {
		if chain == "" {
			continue
		}
		if err := t.rules(chain, into); err != nil {
			return err
		}
	}
	return nil
}

// set reads a set, and gives the chains that it leads to if it is a verdict map.
func (t *ruleset) set(name string) []string {
	if t.sets[name] != nil {
		return nil
	}
	t.sets[name] = &elementSet{} // of which nothing is known
	set, err := t.conn.GetSetByName(t.table, name)
	if err != nil {
		return nil // the library does not know all types
	}
	elements, err := t.conn.GetSetElements(set)
	if err != nil {
		return nil
	}
	slices.SortStableFunc(elements, func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) })
	t.sets[name] = &elementSet{set, elements}
	var chains []string
	for _, e := range elements {
		chains = append(chains, verdictOf(e).chain)
	}
	return chains
}

// nftMachine runs a rule's expressions as nft_do_chain of net/netfilter does, on bits of
// which some are not known.
type nftMachine struct {
	packet    Packet
	table     *ruleset
	registers map[uint32]bits
}

func (m *nftMachine) run(exprs []expr.Any) (truth, verdict) {
	m.registers = map[uint32]bits{}
	fits := yes
	for _, e := range exprs {
		t, v := m.step(e)
		if fits = max(fits, t); t == no {
			return no, verdict{}
		}
		if v.kind != pass {
			return fits, v
		}
	}
	return fits, verdict{}
}

func (m *nftMachine) step(e expr.Any) (truth, verdict) {
	switch e := e.(type) {
	case *expr.Counter, *expr.Log, *expr.Notrack:
	case *expr.Immediate:
		m.registers[e.Register] = sure(e.Data)
	case *expr.Meta:
		if !e.SourceRegister {
			m.registers[e.Register] = m.packet.meta(e.Key)
		}
	case *expr.Ct:
		if !e.SourceRegister {
			m.registers[e.Register] = m.packet.ct(e.Key)
		}
	case *expr.Payload:
		if e.OperationType == expr.PayloadLoad {
			m.registers[e.DestRegister] = m.packet.payload(e)
		}
	case *expr.Bitwise:
		m.bitwise(e)
	case *expr.Cmp:
		return m.cmp(e), verdict{}
	case *expr.Range:
		return m.take(e.Register).within(e.FromData, e.ToData).not(e.Op == expr.CmpOpNeq), verdict{}
	case *expr.Lookup:
		return m.lookup(e)
	case *expr.Limit, *expr.Quota, *expr.Connlimit, *expr.Dynset:
		return some, verdict{}
	case *expr.Match:
		return m.packet.xtMatch(e), verdict{}
	case *expr.Target:
		return yes, xtTarget(e.Name)
	case *expr.Reject:
		return yes, verdict{kind: drop}
	case *expr.Verdict:
		return yes, nftVerdict(e.Kind, e.Chain)
	default:
		return unknown, verdict{}
	}
	return yes, verdict{}
}

// take reads a register, once: the library leaves out expressions that it does not know,
// and what one of them would have loaded must not be taken for what was there before.
func (m *nftMachine) take(register uint32) bits {
	b := m.registers[register]
	delete(m.registers, register)
	return b
}

func (m *nftMachine) bitwise(e *expr.Bitwise) {
	b := m.take(e.SourceRegister)
	if int(e.Len) != len(b.value) || len(e.Mask) != len(b.value) || len(e.Xor) != len(b.value) {
		return
	}
	out := blank(e.Len)
	for i := range out.value {
		out.value[i], out.known[i] = b.value[i]&e.Mask[i]^e.Xor[i], b.known[i]|^e.Mask[i]
	}
	out.varies = b.varies
	m.registers[e.DestRegister] = out
}

func (m *nftMachine) cmp(e *expr.Cmp) truth {
	least, most := make([]byte, len(e.Data)), bytes.Repeat([]byte{0xff}, len(e.Data))
	b := m.registers[e.Register]
	switch e.Op {
	case expr.CmpOpGte, expr.CmpOpLt: // the other end of a range reads the register again
		return b.within(e.Data, most).not(e.Op == expr.CmpOpLt)
	case expr.CmpOpLte, expr.CmpOpGt:
		return b.within(least, e.Data).not(e.Op == expr.CmpOpGt)
	}
	return m.take(e.Register).equals(e.Data).not(e.Op == expr.CmpOpNeq)
}

func (m *nftMachine) lookup(e *expr.Lookup) (truth, verdict) {
	key, set := m.take(e.SourceRegister), m.table.sets[e.SetName]
	toVerdict := e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT
	switch {
	case toVerdict && set.Set == nil:
		return unknown, verdict{kind: dunno}
	case set.Set == nil || e.IsDestRegSet && !toVerdict:
		return unknown, verdict{}
	}
	fits, v := no, verdict{}
	for i, element := range set.elements {
		t := set.fits(key, i)
		if t == no {
			continue
		}
		if fits, v = max(fits, t), verdictOf(element); t == yes {
			fits = yes
			break
		}
	}
	if !toVerdict {
		return fits.not(e.Invert), verdict{}
	}
	if fits > yes {
		v = verdict{kind: dunno}
	}
	return fits, v
}

// fits compares with one element. Of several fields together the first is looked at, as
// far as it goes: the addresses of Services are no pods'.
func (s *elementSet) fits(key bits, i int) truth {
	from := s.elements[i].Key
	to, n := from, len(key.value)
	switch {
	case s.elements[i].IntervalEnd:
		return no
	case len(from) < n || n == 0 || s.elements[i].KeyEnd != nil && len(s.elements[i].KeyEnd) != len(from):
		return unknown
	case s.elements[i].KeyEnd != nil:
		to = s.elements[i].KeyEnd
	case s.Interval:
		to = s.end(i)
	}
	t := key.within(from[:n], to[:n])
	if t == yes && len(from) > n {
		return unknown
	}
	return t
}

// end is the last key of an interval: the one before the next element, which begins or
// ends another. They are sorted.
func (s *elementSet) end(start int) []byte {
	from := s.elements[start].Key
	for _, e := range s.elements[start+1:] {
		if !bytes.Equal(e.Key, from) {
			return before(e.Key)
		}
	}
	return bytes.Repeat([]byte{0xff}, len(from))
}

func before(key []byte) []byte {
	key = bytes.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		if key[i]--; key[i] != 0xff {
			break
		}
	}
	return key
}

// verdictOf reads the verdict that a map has for a key: two attributes of
// linux/netfilter/nf_tables.h, NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN, if there is one.
func verdictOf(e nftables.SetElement) verdict {
	const code, chain = 4, 12
	if len(e.Val) < code+4 {
		return verdict{}
	}
	v := nftVerdict(expr.VerdictKind(int32(binary.BigEndian.Uint32(e.Val[code:]))), "")
	if len(e.Val) > chain && (v.kind == jump || v.kind == goTo) {
		v.chain = string(bytes.TrimRight(e.Val[chain:], "\x00"))
	}
	return v
}

func nftVerdict(kind expr.VerdictKind, chain string) verdict {
	kinds := map[expr.VerdictKind]verdictKind{
		expr.VerdictAccept: accept, expr.VerdictDrop: drop, expr.VerdictJump: jump, expr.VerdictGoto: goTo,
		expr.VerdictReturn: giveBack, expr.VerdictContinue: pass,
	}
	if k, ok := kinds[kind]; ok {
		return verdict{k, chain}
	}
	return verdict{kind: dunno}
}
